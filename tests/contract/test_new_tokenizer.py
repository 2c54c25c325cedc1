"""A new tokenizer with a setting of its own, for the target side of a new processor: two files and a line each."""

import contextlib
import io
import re
import runpy
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from uer import cli
from uer.config import (
    DistillationConfig,
    LogConfig,
    MaskingConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    TokenizerConfig,
    TrainConfig,
    flag,
)
from uer.data.draws import Draws
from uer.data.processors import PROCESSORS
from uer.data.processors.base import Block, Lines, Processor
from uer.data.schema import FIELDS, Column
from uer.data.store import open_dataset
from uer.errors import UserError
from uer.tokenizers import TOKENIZERS, Tokenizer, Vocab, build_tokenizer
from uer.training.inputs import Settings, open_data


@dataclass(frozen=True)
class ToyTokenizerConfig:
    """The toy tokenizer"""

    toy_size: int = flag(2, "Characters of a token.")
    tgt_toy_size: int = flag(2, "The same for the target side.")


class ToyTokenizer(Tokenizer):
    """Pieces of some characters; the vocabulary has neither [CLS] nor [MASK], and what it lacks is left out."""

    kind, line_cuts, config_class = "toy", re.compile(b"\n"), ToyTokenizerConfig
    default_special_tokens: ClassVar = {"pad_token": "<pad>", "eos_token": "</s>"}

    def __init__(self, vocab: Vocab, size: int) -> None:
        super().__init__(vocab, False)
        self.size = size

    @classmethod
    def from_config(cls, config: TokenizerConfig, side: str = "src") -> "ToyTokenizer":
        own = config.of_side(side)
        return cls(Vocab.load(own.vocab_path, cls.default_special_tokens), own.of(ToyTokenizerConfig).toy_size)

    @property
    def settings(self) -> dict[str, str]:
        return {"kind": self.kind, "toy_size": str(self.size)}

    def _blocks(self, text: str) -> list[str]:
        return [text] if text else []

    def _encode_block(self, block: str, unknown: Counter | None) -> tuple[np.ndarray, np.ndarray]:
        ids, ends = [], []
        for line in block.split("\n"):
            pieces = [line[at:at + self.size] for at in range(0, len(line), self.size)]
            ids += [self.vocab.ids[piece] for piece in pieces if piece in self.vocab.ids]
            ends.append(len(ids))
        return np.array(ids, np.int64), np.array(ends[:-1], np.int64)

    def splits_between(self, before: str, after: str) -> bool:
        return False

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.vocab.tokens[index] for index in ids)


class ToyBuilder:
    """A line is an instance: its source and its target, which the target's eos token ends."""

    def __init__(self, eos: int) -> None:
        self.eos, self.documents, self.blank_lines, self.positions = eos, 0, 0, {"src": 0, "tgt": 0}

    def add(self, lines: Lines) -> Block:
        source, target = lines.fields
        ends = np.insert(target.ids, target.offsets[1:], self.eos).astype(target.ids.dtype)
        starts = {"src": source.offsets[:-1] + self.positions["src"],
                  "tgt": target.offsets[:-1] + np.arange(len(target.lengths)) + self.positions["tgt"]}
        self.positions = {"src": self.positions["src"] + len(source.ids), "tgt": self.positions["tgt"] + len(ends)}
        self.documents += len(source.lengths)
        return Block({"src": source.ids, "tgt": ends}, starts)

    def end_file(self) -> Block:
        return Block()

    def finish(self) -> Block:
        return Block()


class ToyPairs(Processor):
    corpus, fields, field_counts, labels = FIELDS, ("src", "tgt"), (2,), ("lm",)

    def schema(self) -> dict[str, Column]:
        return {"src": Column(), "tgt": Column("tgt", vocab="tgt")}

    def lengths(self) -> dict[str, int]:
        return {"src": self.seq_length, "tgt": self.seq_length}

    def builder(self, draws: Draws, copies: int = 1) -> ToyBuilder:
        return ToyBuilder(self.special_id("eos", "tgt"))


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The two lines of a new tokenizer and a new processor, and files of theirs."""
    monkeypatch.setitem(TOKENIZERS, "toy", ToyTokenizer)
    monkeypatch.setitem(PROCESSORS, "toy", ToyPairs)
    monkeypatch.chdir(tmp_path)
    bert = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "北", "京", "cab", "e", "##d"]
    for name, entries in (("vocab.txt", bert), ("toy.txt", ["</s>", "<pad>", "abc", "def", "a", "b"]),
                          ("no_eos.txt", ["<pad>", "abc"])):
        (tmp_path / name).write_text("\n".join(entries), encoding="utf-8")
    (tmp_path / "corpus.tsv").write_text("北京\tabcdef\ncab ed\tdefxyz\n", encoding="utf-8")
    return tmp_path


FLAGS = ["--vocab_path", "vocab.txt", "--tgt_tokenizer", "toy", "--tgt_vocab_path", "toy.txt", "--tgt_toy_size", "3"]


def preprocess(root: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> str:
    """`preprocess.py` in this process; what it printed."""
    monkeypatch.setattr(sys, "argv", ["preprocess.py", "--corpus_path", "corpus.tsv", "--dataset_path", "d.pt",
                                      "--seq_length", "8", *flags])
    with contextlib.redirect_stdout(io.StringIO()) as output:
        runpy.run_path(str(root / "preprocess.py"), run_name="script")["main"]()
    return output.getvalue()


def opened(*flags: str) -> None:
    """What `pretrain.py` does with its datasets and tokenizers."""
    sections = (TrainConfig, ModelConfig, OptimConfig, TokenizerConfig, MaskingConfig, ParallelConfig, LogConfig,
                DistillationConfig)
    Path("config.json").write_text("{}")
    open_data(Settings(*cli.parse("", sections, [
        "--config_path", "config.json", "--dataset_path", "d.pt", "--output_model_path", "m.bin", "--target", "lm",
        *flags])))


def test_two_sides_have_tokenizers_of_their_own(root, toy, monkeypatch):
    printed = preprocess(root, monkeypatch, "--data_processor", "toy", *FLAGS)
    dataset = open_dataset(toy / "d.pt")
    source, target = (build_tokenizer(cli.parse("", (TokenizerConfig,), FLAGS)[0], side) for side in ("src", "tgt"))
    assert [dataset.sequence(row, "tgt").tolist() for row in (0, 1)] == [[2, 3, 0], [3, 0]]
    assert [dataset.sequence(row, "src").tolist() for row in (0, 1)] == [source.encode("北京"), source.encode("cab ed")]
    assert dataset.info.vocabs["tgt"].special_ids == {"pad": 1, "eos": 0} == target.vocab.special_ids
    assert dataset.info.vocabs["tgt"].tokenizer == {"kind": "toy", "toy_size": "3"}
    assert "tokens: 10, unknown: 0" in printed


def test_pretraining_checks_the_vocabularies_of_both_sides(root, toy, monkeypatch):
    preprocess(root, monkeypatch, "--data_processor", "toy", *FLAGS)
    opened(*FLAGS)
    with pytest.raises(UserError, match=r"made with another vocabulary .* than --tgt_vocab_path"):
        opened(*FLAGS[:4], "--tgt_vocab_path", "vocab.txt", "--tgt_tokenizer", "bert")
    with pytest.raises(UserError, match="toy_size = 3, but this run has toy_size = 2"):
        opened(*FLAGS[:-2])
    with pytest.raises(UserError, match="--tgt_vocab_path is required for --tgt_tokenizer bert"):
        opened(*FLAGS[:2])


def test_a_role_that_the_vocabulary_lacks_is_asked_for(root, toy, monkeypatch):
    with pytest.raises(UserError, match=r"no_eos.txt: no entry '</s>' \(eos_token\)"):
        preprocess(root, monkeypatch, "--data_processor", "toy", *FLAGS[:4], "--tgt_vocab_path", "no_eos.txt")
    (toy / "corpus.tsv").write_text("abcdef\n")
    with pytest.raises(UserError, match="this processor needs a cls token, and the vocabulary names none"):
        preprocess(root, monkeypatch, "--data_processor", "mlm", "--tokenizer", "toy", "--vocab_path", "toy.txt")


def test_flags_of_the_target_side_do_nothing_where_there_is_one_side(root, toy, monkeypatch):
    (toy / "corpus.tsv").write_text("北京\n")
    preprocess(root, monkeypatch, "--data_processor", "mlm", *FLAGS[:4], "--tgt_vocab_path", "none.txt")
    assert list(open_dataset(toy / "d.pt").info.vocabs) == ["src"]


def test_a_flag_of_a_tokenizer_s_own_is_a_flag_of_both_sides(toy, capsys):
    (config,) = cli.parse("", (TokenizerConfig,), FLAGS)
    assert config.of(ToyTokenizerConfig) == ToyTokenizerConfig(2, 3)
    assert config.of_side("tgt").of(ToyTokenizerConfig) == ToyTokenizerConfig(3, 3)
    with pytest.raises(SystemExit):
        cli.parse("", (TokenizerConfig,), ["--help"])
    shown = capsys.readouterr().out
    assert "--tgt_toy_size" in shown and "--merges_path" in shown and "Not built yet" not in shown
