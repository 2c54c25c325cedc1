"""What a build says of its corpus: warnings, what was left out and where, to the line."""

import random
from pathlib import Path

import pytest

from tests.data.conftest import make
from uer.config import DatasetConfig
from uer.data import line_cleaner as lines
from uer.data import shards
from uer.data import summary as report
from uer.data.build import build_dataset
from uer.data.processors import pools
from uer.errors import UserError
from uer.text import in_bytes


@pytest.mark.parametrize(("content", "warning"), [
    ("a b c\nd e f\na c\n\n" * 30, "one sentence a line"), ("a b c d e\n" * 100, None), ("a b c d e\n\n" * 100, None),
    ('{"text": "a"}\n' * 100, "looks like JSON lines"), ('\ufeff{"text": "a"}\n', "looks like JSON lines"),
])
def test_a_corpus_for_another_command_is_noticed(content, warning, tmp_path, small_tokenizer):
    (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    notes = []
    make(tmp_path, small_tokenizer, tmp_path / "a.txt", notes=notes)
    assert [warning in note for note in notes] == ([True] if warning else [])


def test_a_corpus_in_gbk_is_refused(tmp_path, small_tokenizer):
    lines = "北京\n\nabc\n普语\n".encode("gbk") * 3
    (tmp_path / "a.txt").write_bytes(lines)
    with pytest.raises(UserError, match=r"a\.txt: the text seems to be GBK; convert it to UTF-8"):
        make(tmp_path, small_tokenizer, tmp_path / "a.txt")
    for damaged in (lines + "北京\n".encode(), b"\xff\n" + lines):
        (tmp_path / "a.txt").write_bytes(damaged)
        make(tmp_path, small_tokenizer, tmp_path / "a.txt")


def test_unknown_tokens_are_those_of_the_instances(tmp_path, small_tokenizer):
    """The sentences of 100 tokens are cut to 16 tokens with the special ones."""
    (tmp_path / "a.txt").write_text("☃ " * 100 + "\n\n" + "☃ " * 100 + "\n")
    totals = make(tmp_path, small_tokenizer, tmp_path / "a.txt", data_processor="bert").totals
    assert 0 < totals.unknown_tokens <= totals.tokens - 2 * totals.instances


def test_the_summary_says_what_was_lost_and_what_is_unknown(tmp_path, small_tokenizer):
    (tmp_path / "a.txt").write_bytes("a语 鑫鑫龘\n\n𠀀é☃☃☃\n".encode() + b"\xff\n" * 15 + b"x\0\n")
    summary = make(tmp_path, small_tokenizer, tmp_path / "a.txt")
    text = "\n".join(summary.lines(10, [small_tokenizer]))
    assert "documents: 3 (16 blank lines skipped)" in text  # the damaged lines, once replaced, hold no token
    assert "damaged lines: 15 (not UTF-8, replaced)" in text and "damaged lines: 1 (NUL bytes, dropped)" in text
    assert "a.txt: line 5: not UTF-8, replaced" in text and "and 6 more" in text
    assert "commonest unknown: ☃ 3  鑫 2  龘 1  𠀀 1\n" in text
    assert in_bytes((tmp_path / "d.pt").stat().st_size) in text


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(report, "SECONDS_BETWEEN_LINES", 0)
    with report.Progress(4_000_000) as progress:
        progress.add(1_000_000, worked=False)
        progress.add(1_500_000)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tokenizing: 50% of 3.0 MB, ") and line.endswith(" left")


def _random_bytes(chance: random.Random) -> bytes:
    size = chance.randrange(1, 1000)
    kind = chance.randrange(3)
    if kind == 0:
        return chance.randbytes(size)
    if kind == 1:  # mostly text
        return b"".join(chance.choice([b"\n", b"\r\n", b"a", b" ", "语".encode(), b"\xff", b"\0", b"\xe8\xaf"])
                        for _ in range(size))
    points = (chance.choice([chance.randrange(0xD800), chance.randrange(0xE000, 0x110000), 10]) for _ in range(size))
    return "".join(map(chr, points)).encode()


def test_random_corpora_never_crash_and_the_report_is_right_to_the_line(tmp_path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(report, "SHOWN_LOCATIONS", 10_000)
    monkeypatch.setattr(lines, "KEPT_LOCATIONS", 10_000)
    monkeypatch.setattr(shards, "KEPT_LOCATIONS", 10_000)
    chance = random.Random(23)
    path = tmp_path / "corpus"
    for round_number in range(30):
        content = _random_bytes(chance)
        if content.startswith((b"\xff\xfe", b"\xfe\xff", b"BZh", b"\x1f\x8b")):
            continue
        path.write_bytes(content)
        expected = []
        texts = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
        texts = texts if texts[-1] else texts[:-1]
        for number, line in enumerate(texts, 1):
            expected += [(str(path), number, "NUL bytes, dropped")] * (b"\0" in line)
            expected += [(str(path), number, "not UTF-8, replaced")] * ("\ufffd" in line.decode(errors="replace")
                                                                       and "\ufffd".encode() not in line)
        documents = [small_tokenizer.encode(line.decode(errors="replace")) for line in texts]
        if not any(documents):
            continue
        summary = make(tmp_path, small_tokenizer, path, shard_bytes=chance.choice([200, 700]))
        assert summary.locations == expected, round_number
        assert summary.totals.lines == len(texts)
        assert summary.totals.documents == sum(map(bool, documents))
        assert summary.totals.tokens == sum(len(ids) + 2 for ids in documents if ids)


@pytest.mark.parametrize("name, reasons, places", [
    ("bart", {"the sentence has more than --seq_length - 2 = 5 tokens": 2},
     [("a.txt", 3), ("b.txt", 2)]),
    # One sentence of the documents with 3 short ones is hidden, and none of the document with 1.
    ("gsg", {"the sentence has more than --tgt_seq_length - 3 = 4 tokens": 2,
             "its part of the document has no sentence to predict": 1},
     [("a.txt", 3), ("a.txt", 9), ("b.txt", 2)])])
def test_sentences_that_are_left_out_are_counted_and_located(tmp_path, small_tokenizer, name, reasons, places):
    """Also in the middle of a pool of several files, and behind a line that is left out before it is tokenized."""
    (tmp_path / "a.txt").write_bytes(b"a\nb\na b c d e f\nc\n\n\n\xff\n\na\n")
    (tmp_path / "b.txt").write_bytes(b"a\n" + b"a b c d e f\n" + b"b\nc\n\n")
    summary = build_dataset(
        DatasetConfig(corpus_path=(str(tmp_path),), dataset_path=str(tmp_path / "d.pt"), data_processor=name,
                      seq_length=7 if name == "bart" else 12, encoding_errors="report",
                      members={"tgt_seq_length": 7} if name == "gsg" else {}), {"src": small_tokenizer})
    bad = ("a.txt", 7, "not UTF-8, left out")
    assert summary.totals.damage == {bad[2]: 1, **{f"{reason}, left out": count for reason, count in reasons.items()}}
    assert summary.totals.left_out_lines == summary.totals.damaged_lines == 1 + sum(reasons.values())
    assert [(Path(path).name, line) for path, line, _ in summary.locations] == sorted([*places, bad[:2]])


def test_a_sentence_in_pieces_is_left_out_once(tmp_path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(shards, "LONG_LINE", 100)
    monkeypatch.setattr(pools, "POOL_TOKENS", 60)
    monkeypatch.setattr(pools, "LARGEST_DOCUMENT", 120)
    (tmp_path / "a.txt").write_text("a\nb\n" + "a " * 800 + "\nc\n\nd\n")
    summary = build_dataset(DatasetConfig(corpus_path=(str(tmp_path / "a.txt"),), dataset_path=str(tmp_path / "d.pt"),
                                          data_processor="bart", seq_length=7), {"src": small_tokenizer})
    assert [place[1:] for place in summary.locations] == [
        (3, "the sentence has more than --seq_length - 2 = 5 tokens, left out")]
    assert summary.totals.left_out_lines == 1
