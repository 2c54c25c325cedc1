"""Bytes to clean lines: long ones in pieces, damaged ones counted and located."""

import json
import random

import numpy as np
import pytest

from uer.data import line_cleaner as lines
from uer.data.line_cleaner import LineCleaner, chunks
from uer.errors import UserError
from uer.tokenizers import TOKENIZERS, BertTokenizer, CharTokenizer, SpaceTokenizer


def _clean(data: bytes, **options) -> tuple[str, LineCleaner]:
    cleaner = LineCleaner("corpus.txt", **options)
    return cleaner.clean(data, False), cleaner


def test_only_line_feeds_end_lines():
    text, cleaner = _clean("a\r\nb\u2028c\x85d\x0be\rf\n\ng".encode())
    assert text == "a\nb\u2028c\x85d\x0be\rf\n\ng\n"
    assert cleaner.lines == 4


def test_damaged_lines_are_replaced_counted_and_located():
    text, cleaner = _clean(b"ok\nb\xff\xc3d\n\nnul\0\n\xe4\xb8")
    assert text == "ok\nb\ufffd\ufffdd\n\nnul\n\ufffd\n"
    assert cleaner.locations == [(2, "not UTF-8, replaced"), (4, "NUL bytes, dropped"), (5, "not UTF-8, replaced")]
    assert cleaner.damage == {"not UTF-8, replaced": 2, "NUL bytes, dropped": 1}
    assert (cleaner.lines, cleaner.damaged, cleaner.left_out) == (5, 3, 0)


def test_damaged_lines_can_be_left_out():
    text, cleaner = _clean(b"ok\nb\xff\nc\n", encoding_errors="report")
    assert text == "ok\nc\n"
    assert cleaner.locations == [(2, "not UTF-8, left out")]
    assert (cleaner.lines, cleaner.left_out) == (3, 1)


def test_damaged_lines_can_stop_the_run():
    with pytest.raises(UserError, match=r"corpus.txt: line 3: byte 0xff at column 2 is not UTF-8"):
        _clean(b"ok\n\nb\xff\n", encoding_errors="stop")


def test_a_line_with_two_kinds_of_damage_is_one_damaged_line():
    _, cleaner = _clean(b"\0\n\0\xff\n\0\n")
    assert cleaner.damage == {"NUL bytes, dropped": 3, "not UTF-8, replaced": 1}
    assert cleaner.damaged == 3


def test_json_lines():
    records = [json.dumps({"text": "北京\n很大"}), "", "{", "[1]", '{"other": 1}', '{"text": 7}',
               '{"text": "\\ud800x"}', "[" * 100_000, '{"text": "b"}']
    text, cleaner = _clean("\n".join(records).encode(), text_field="text")
    assert text == "北京 很大\n\n?x\nb\n"
    assert cleaner.locations == [(3, "not JSON, left out"), (4, "not a JSON object, left out"),
                              (5, "no field 'text', left out"), (6, "field 'text' is not text, left out"),
                              (8, "not JSON, left out")]
    assert (cleaner.lines, cleaner.left_out) == (9, 5)


def test_a_json_line_that_is_too_long_is_left_out():
    data = b'{"text": "a"}\n{"text": "' + b"b" * 100 + b'"}\n{"text": "c"}\n'
    cleaner = LineCleaner("corpus.txt", text_field="text")
    blocks = [data[start:start + 30] for start in range(0, len(data), 30)]
    text = "".join(cleaner.clean(*chunk) for chunk in chunks(blocks, BertTokenizer.line_cuts, long_line=60))
    assert text == "a\nc\n"
    assert cleaner.lines == 3
    assert cleaner.locations == [(2, "longer than 16 MiB, left out")]


@pytest.mark.parametrize("kind", ["bert", "char", "space"])
def test_long_lines_come_in_pieces_with_the_same_tokens(kind, small_tokenizer):
    tokenizer = {"bert": small_tokenizer, "char": CharTokenizer(small_tokenizer.vocab),
                 "space": SpaceTokenizer(small_tokenizer.vocab)}[kind]
    chance = random.Random(3)
    alphabet = ["a", "b", "语", "言", "北", " ", "\t", ",", "，", "́", "é", "Σ", ".", "'", "\0", "\u3000", "\r"]
    for _ in range(100):
        weights = [chance.random() for _ in alphabet]
        text = "".join("".join(chance.choices(alphabet, weights, k=chance.randrange(30))) + "a a语语"
                       for _ in range(chance.randrange(9))) + "\n"
        data = text.encode() * 2
        size = chance.choice([1, 7, 50])
        blocks = [data[start:start + size] for start in range(0, len(data), size)]
        made = list(chunks(blocks, TOKENIZERS[kind].line_cuts, long_line=chance.choice([300, 400])))
        assert b"".join(piece for piece, _ in made) == data
        cleaner = LineCleaner("x")
        ids = np.concatenate([tokenizer.encode_lines(cleaner.clean(*chunk))[0] for chunk in made])
        assert ids.tolist() == tokenizer.encode_lines(text.replace("\0", "") * 2)[0].tolist()
        assert cleaner.lines == 2


def test_a_line_that_ends_where_it_was_cut_is_finished():
    assert list(chunks([b"a b c "], BertTokenizer.line_cuts, long_line=6)) == [(b"a b c ", True), (b"", False)]
    cleaner = LineCleaner("x")
    assert [cleaner.clean(b"a b c ", True), cleaner.clean(b"", False)] == ["a b c \n", "\n"]
    assert cleaner.lines == 1


def test_an_endless_word_is_cut_between_characters():
    data = "ก".encode() * 1000
    made = list(chunks([data], BertTokenizer.line_cuts, long_line=100))
    assert all(piece.decode() for piece, _ in made)
    assert [unfinished for _, unfinished in made] == [True] * (len(made) - 1) + [False]
    assert b"".join(piece for piece, _ in made) == data


def test_damage_in_a_long_line_counts_once():
    data = b"a \xff b " * 50 + b"\nb\xff\n"
    blocks = [data[start:start + 30] for start in range(0, len(data), 30)]
    cleaner = LineCleaner("x", "report")
    text = "".join(cleaner.clean(*chunk) for chunk in chunks(blocks, BertTokenizer.line_cuts, long_line=40))
    assert cleaner.damage["not UTF-8, replaced"] == 1 and cleaner.damage["not UTF-8, left out"] == 1
    assert cleaner.lines == 2 and text.count("\ufffd") == 50


def test_places_are_bounded(monkeypatch):
    monkeypatch.setattr(lines, "KEPT_LOCATIONS", 3)
    _, cleaner = _clean(b"\xff\n" * 10)
    assert len(cleaner.locations) == 3 and cleaner.damaged == 10
