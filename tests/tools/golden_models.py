"""UER-py's golden tiny models, as their users have them: a checkpoint, a settings file, a vocabulary."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from uer.checkpoint.files import save_weights

VOCAB_SIZE = 120


def entries(*special: str) -> list[str]:
    """A vocabulary of 120 entries, these among them, with the characters of the conversion check's sentences."""
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys("中国的首都是北京。长江最河流，全约"),
             *special]
    return known + [f"w{number}" for number in range(VOCAB_SIZE - len(known))]


def read_golden(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights, tied ones under every name, and what the file beside them says."""
    told = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    weights = load_file(folder / f"{name}.safetensors")
    return weights | {copy: weights[home] for copy, home in told["tied"].items()}, told


@dataclass(frozen=True)
class GoldenModel:
    """A golden model's weights, and the files that were written of it."""

    weights: dict[str, Tensor]
    checkpoint: Path
    settings: Path
    vocab: Path

    def flags(self, *names: str) -> tuple[object, ...]:
        """Of a script that exports it; `names` of those that it needs, all where none is given."""
        known = {"input_model_path": self.checkpoint, "config_path": self.settings, "vocab_path": self.vocab}
        return tuple(word for name in names or known for word in (f"--{name}", known[name]))


def write_golden(golden: Path, name: str, folder: Path, tokens: Sequence[str]) -> GoldenModel:
    """Write the files of a golden model into a folder."""
    weights, told = read_golden(golden / "breadth" / "models", name)
    assert len(tokens) == told["vocab_size"]
    found = GoldenModel(weights, folder / "uer.bin", folder / "uer.json", folder / "vocab.txt")
    save_weights(weights, found.checkpoint)
    passed_over = ("data_processor", "bidirectional", "labels_num")
    settings = {key: value for key, value in told["config"].items() if key not in passed_over}
    found.settings.write_text(json.dumps(settings))
    found.vocab.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return found
