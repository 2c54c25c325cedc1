"""Characters and space-separated words as tokens, against one-line definitions."""

import random
from collections import Counter

import numpy as np
import pytest

from uer.config import TokenizerConfig
from uer.errors import UserError
from uer.tokenizers import CharTokenizer, SpaceTokenizer, Vocab, build_tokenizer

VOCAB = Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "A", "中", "国", "中国", "😀", "\u3000"])
TEXT = "  a 中国  A\r\n\n😀b中\u3000国\n \n中国 中国\t[MASK] é"


def expected(text: str, split) -> list[list[int]]:
    return [[VOCAB.ids.get(token, 1) for token in split(line)] for line in text.split("\n")]


def lines_of(ids: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(ids, offsets[1:-1])]


KINDS = [(CharTokenizer, lambda line: list(line.strip())), (SpaceTokenizer, str.split)]


@pytest.mark.parametrize("kind, split", KINDS)
def test_lines_equal_the_definition(kind, split):
    assert lines_of(*kind(VOCAB).encode_lines(TEXT)) == expected(TEXT, split)


@pytest.mark.parametrize("kind, split", KINDS)
@pytest.mark.parametrize("block", [1, 3, 10, 40])
def test_blocks_of_any_size_give_the_same_ids(kind, split, block, monkeypatch):
    monkeypatch.setattr(kind, "block_chars", block)
    draw = random.Random(5)
    text = "".join(draw.choice("aA中国 \n😀b") for _ in range(600)) + "b" * 100
    assert lines_of(*kind(VOCAB).encode_lines(text)) == expected(text, split)


def test_unknown_pieces_are_counted():
    unknown = Counter()
    CharTokenizer(VOCAB).encode_lines("ab\nb中é", unknown)
    assert unknown == {"b": 2, "é": 1}
    unknown = Counter()
    SpaceTokenizer(VOCAB).encode_lines("ab a\nab 中é", unknown)
    assert unknown == {"ab": 2, "中é": 1}


def test_decode():
    assert CharTokenizer(VOCAB).decode([7, 8, 5]) == "中国a"
    assert CharTokenizer(VOCAB).decode([5, 6, 5]) == "aAa"
    assert SpaceTokenizer(VOCAB).decode([7, 8, 5]) == "中 国 a"
    assert SpaceTokenizer(VOCAB).tokenize("中国 x") == ["中国", "[UNK]"]


def test_build_tokenizer_picks_by_name(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in VOCAB.tokens), encoding="utf-8")
    for name in ("bert", "char", "space"):
        tokenizer = build_tokenizer(TokenizerConfig(tokenizer=name, vocab_path=str(path)))
        assert tokenizer.settings["kind"] == name
    with pytest.raises(UserError, match=r"--tokenizer: 'byte' is unknown; choose from: bert, bpe, char, qwen, space"):
        build_tokenizer(TokenizerConfig(tokenizer="byte", vocab_path=str(path)))
    with pytest.raises(UserError, match="--vocab_path is required"):
        build_tokenizer(TokenizerConfig())
