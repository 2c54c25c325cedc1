"""A task small enough to learn in a second: the label says whether the text holds 甲."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

CHARACTERS = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥"
CONFIG = {"emb_size": 16, "hidden_size": 16, "feedforward_size": 32, "heads_num": 2, "layers_num": 1, "dropout": 0.0,
          "max_seq_length": 24, "hidden_act": "gelu", "embedding": ["word", "pos", "seg"], "encoder": "transformer",
          "mask": "fully_visible", "pooling": "max", "target": ["mlm"], "tie_weights": True}


@dataclass(frozen=True)
class Tiny:
    """Paths of the task's files; `flags` is the command line they make."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text, encoding="utf-8")
        return self.path(name)

    def flags(self, **changes: object) -> list[str]:
        """The flags of a fine-tuning command; None leaves a flag out."""
        values = {"train_path": self.path("train.tsv"), "dev_path": self.path("dev.tsv"),
                  "config_path": self.path("config.json"), "vocab_path": self.path("vocab.txt"),
                  "output_model_path": self.path("out/model.bin"), "seq_length": 16, "epochs_num": 2,
                  "batch_size": 8, "learning_rate": 0.01, "log_level": "ERROR", "device": "cpu", **changes}
        words = []
        for name, value in values.items():
            if value is True:
                words.append(f"--{name}")
            elif value is not None:
                words += [f"--{name}", *(map(str, value) if isinstance(value, (list, tuple)) else [str(value)])]
        return words


def examples(count: int, seed: int) -> list[tuple[int, str]]:
    """(label, text): texts of 3 to 12 characters."""
    generator = random.Random(seed)
    found = []
    for number in range(count):
        text = "".join(generator.choices(CHARACTERS[1:], k=generator.randint(3, 12)))
        label = number % 2
        if label:
            position = generator.randrange(len(text))
            text = text[:position] + "甲" + text[position + 1:]
        found.append((label, text))
    return found


def tsv(rows: list[tuple[int, str]]) -> str:
    return "label\ttext_a\n" + "".join(f"{label}\t{text}\n" for label, text in rows)


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path)


@pytest.fixture(scope="module")
def shared_tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """One for all tests of a file, for trainings that several of them look at; each output needs its own name."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def make_tiny(folder: Path) -> Tiny:
    files = Tiny(folder)
    files.write("vocab.txt", "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS]) + "\n")
    files.write("config.json", json.dumps(CONFIG))
    # Of the 96 a model learns the task, so that it knows unseen texts; 40 of them, 5 updates, are enough for the rest.
    for name, count, seed in (("many.tsv", 96, 1), ("train.tsv", 40, 1), ("dev.tsv", 37, 2), ("test.tsv", 29, 3)):
        files.write(name, tsv(examples(count, seed)))
    return files
