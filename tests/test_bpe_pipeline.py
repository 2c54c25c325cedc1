"""From text to a trained model with byte-level BPE: equal bytes for any number of processes, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer

from uer.config import TokenizerConfig
from uer.data.store import open_dataset
from uer.tokenizers import BpeTokenizer, build_tokenizer

MODEL = {"emb_size": 16, "hidden_size": 16, "feedforward_size": 32, "heads_num": 2, "layers_num": 1, "dropout": 0.0,
         "hidden_act": "gelu", "max_seq_length": 32, "embedding": ["word", "pos"], "encoder": "transformer",
         "mask": "causal", "target": ["lm"]}


def run(root: Path, folder: Path, script: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(root / script), *flags], cwd=folder, capture_output=True, text=True,
                          check=False)


@pytest.fixture(scope="module")
def made(root, shared_data, tmp_path_factory) -> Path:
    """A folder with a corpus, a trained vocabulary and datasets of 1 and 2 processes."""
    folder = tmp_path_factory.mktemp("bpe")
    lines = (shared_data / "corpora" / "CLUECorpusSmall_sampled.txt").read_text(encoding="utf-8").split("\n")[:300]
    (folder / "corpus.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(lines, vocab_size=1000, show_progress=False,
                                special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    trainer.save_model(str(folder))
    (folder / "config.json").write_text(json.dumps(MODEL))
    for processes in ("1", "2"):
        result = run(root, folder, "preprocess.py", "--corpus_path", "corpus.txt", "--dataset_path",
                     f"{processes}.pt", "--processes_num", processes, "--seq_length", "32", "--data_processor", "lm",
                     *FLAGS)
        assert result.returncode == 0, result.stderr
    return folder


FLAGS = ("--tokenizer", "bpe", "--vocab_path", "vocab.json", "--merges_path", "merges.txt")


def columns(path: Path) -> list[bytes]:
    dataset = open_dataset(path)
    return [array[:].tobytes() for array in dataset.columns.values()]


def test_a_dataset_does_not_depend_on_the_processes(made):
    assert columns(made / "1.pt") == columns(made / "2.pt")
    dataset = open_dataset(made / "1.pt")
    assert dataset.info.vocab.tokenizer["kind"] == "bpe" and "merges_sha256" in dataset.info.vocab.tokenizer


def test_the_lines_of_the_corpus_end_with_the_line_feed_s_token(made):
    tokenizer = build_tokenizer(TokenizerConfig("bpe", str(made / "vocab.json"), str(made / "merges.txt")))
    assert isinstance(tokenizer, BpeTokenizer)
    lines = [line for line in (made / "corpus.txt").read_text(encoding="utf-8").split("\n") if line.strip()]
    vocab, expected = tokenizer.vocab, []
    for line in lines:
        row = [vocab.cls_id, *tokenizer.encode(f"{line}\n"), vocab.sep_id]
        expected += [row[at:at + 33] for at in range(0, len(row), 33)]
    dataset = open_dataset(made / "1.pt")
    assert [dataset.sequence(row).tolist() for row in range(len(dataset))] == expected


def test_a_model_is_trained_and_the_dataset_is_shown(root, made):
    result = run(root, made, "pretrain.py", "--dataset_path", "2.pt", "--config_path", "config.json", "--target", "lm",
                 "--output_model_path", "m.bin", "--total_steps", "4", "--report_steps", "2", "--batch_size", "4",
                 *FLAGS)
    assert result.returncode == 0, result.stderr
    result = run(root, made, "scripts/inspect_dataset.py", "2.pt", "--samples_num", "1", *FLAGS[2:])
    assert result.returncode == 0, result.stderr
    shown = next(line for line in result.stdout.split("\n") if line.startswith("  plain:")).split()
    assert shown[1] == "<s>" and any("\u4e00" <= char <= "\u9fff" for char in "".join(shown))


def test_other_merges_are_refused(root, made):
    merges = (made / "merges.txt").read_text(encoding="utf-8").split("\n")
    (made / "other.txt").write_text("\n".join(merges[:-3]) + "\n", encoding="utf-8")
    result = run(root, made, "pretrain.py", "--dataset_path", "2.pt", "--config_path", "config.json", "--target", "lm",
                 "--output_model_path", "m2.bin", *FLAGS[:-1], "other.txt")
    assert result.returncode == 2 and "made with tokenizer settings merges_sha256" in result.stderr
    assert result.stderr.count("\n") == 1


def test_whole_words_are_refused(root, made):
    result = run(root, made, "preprocess.py", "--corpus_path", "corpus.txt", "--dataset_path", "w.pt",
                 "--data_processor", "mlm", "--whole_word_masking", *FLAGS)
    assert result.returncode == 2 and "--whole_word_masking does not work" in result.stderr
    assert result.stderr.count("\n") == 1
