"""From text to a trained model with byte-level BPE: equal bytes for any number of processes, and what is refused."""

import dataclasses
import json
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer

from uer.config import DatasetConfig, TokenizerConfig
from uer.data.build import build_dataset
from uer.data.store import open_dataset
from uer.errors import UserError
from uer.tokenizers import BpeTokenizer, build_tokenizer
from uer.training.preflight import check_vocabulary

MODEL = {"emb_size": 16, "hidden_size": 16, "feedforward_size": 32, "heads_num": 2, "layers_num": 1, "dropout": 0.0,
         "hidden_act": "gelu", "max_seq_length": 32, "embedding": ["word", "pos"], "encoder": "transformer",
         "mask": "causal", "target": ["lm"]}


@pytest.fixture(scope="module")
def made(run_forked, shared_data, tmp_path_factory) -> Path:
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
        result = run_forked("preprocess.py", "--corpus_path", "corpus.txt", "--dataset_path",
                            f"{processes}.pt", "--processes_num", processes, "--seq_length", "32", "--data_processor",
                            "lm", *FLAGS, cwd=folder)
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
    assert [dataset.sequence(row, "src").tolist() for row in range(len(dataset))] == expected


def test_a_model_is_trained(run_forked, made):
    result = run_forked("pretrain.py", "--dataset_path", "2.pt", "--config_path", "config.json", "--target", "lm",
                        "--output_model_path", "m.bin", "--total_steps", "4", "--report_steps", "2", "--batch_size",
                        "4", *FLAGS, cwd=made)
    assert result.returncode == 0, result.stderr


def test_other_merges_are_refused(made):
    merges = (made / "merges.txt").read_text(encoding="utf-8").split("\n")
    (made / "other.txt").write_text("\n".join(merges[:-3]) + "\n", encoding="utf-8")
    other = build_tokenizer(TokenizerConfig("bpe", str(made / "vocab.json"), str(made / "other.txt")))
    vocab = open_dataset(made / "1.pt").info.vocab
    with pytest.raises(UserError, match="made with tokenizer settings merges_sha256 = "):
        check_vocabulary("1.pt", (vocab.fingerprint, vocab.size, vocab.tokenizer),
                         (other.vocab.fingerprint, len(other.vocab), other.settings))


def test_masks_need_an_entry_before_the_work_begins(made, tmp_path):
    path = tmp_path / "vocab.json"
    path.write_text((made / "vocab.json").read_text(encoding="utf-8").replace("<mask>", "<other>"), encoding="utf-8")
    tokenizer = build_tokenizer(TokenizerConfig("bpe", str(path), str(made / "merges.txt")))
    config = DatasetConfig((str(made / "corpus.txt"),), str(tmp_path / "m.pt"), data_processor="mlm")
    with pytest.raises(UserError, match="this processor needs a mask token"):
        build_dataset(config, {"src": tokenizer})


def test_whole_words_are_refused(made):
    config = DatasetConfig((str(made / "corpus.txt"),), str(made / "w.pt"), data_processor="mlm")
    masks = dataclasses.replace(config, members={"whole_word_masking": True})
    tokenizer = build_tokenizer(TokenizerConfig("bpe", str(made / "vocab.json"), str(made / "merges.txt")))
    with pytest.raises(UserError, match="--whole_word_masking does not work with the tokens of --tokenizer bpe"):
        build_dataset(masks, {"src": tokenizer})
