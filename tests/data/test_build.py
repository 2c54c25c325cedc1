"""Corpus to dataset: the same bytes however it is made, restarts, real corpora, bad ones."""

import bz2
import errno
import gzip
import json
import lzma
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from uer.config import DatasetConfig
from uer.data import build, shards, store
from uer.data import estimate as forecast
from uer.data import line_cleaner as lines
from uer.data import summary as report
from uer.data.build import build_dataset
from uer.data.processors import pools
from uer.data.store import open_dataset
from uer.errors import UserError
from uer.runtime import lock
from uer.text import in_bytes
from uer.tokenizers import BertTokenizer, Vocab

SHARD_BYTES = 3000


def _text(documents: int, seed: int = 1) -> str:
    chance = random.Random(seed)
    alphabet = [chr(code) for code in range(0x4E00, 0x4F20)] + [" ", "a", "b", "，"]
    return "".join("".join(chance.choices(alphabet, k=chance.choice([0, 3, 40, 200]))) + "\n" for _ in range(documents))


def _make(folder: Path, tokenizer, *corpus: Path, shard_bytes=SHARD_BYTES, name="d.pt", notes=None,
          full_sentences=False, **flags):
    notes = [] if notes is None else notes
    dataset = DatasetConfig(corpus_path=tuple(map(str, corpus)), dataset_path=str(folder / name), data_processor="mlm",
                            members={"full_sentences": full_sentences}, **{"seq_length": 16, **flags})
    return build_dataset(dataset, {"src": tokenizer}, note=notes.append, shard_bytes=shard_bytes)


@pytest.fixture
def corpus(tmp_path) -> Path:
    (tmp_path / "corpus.txt").write_text(_text(400), encoding="utf-8")
    return tmp_path / "corpus.txt"


@pytest.mark.parametrize("full_sentences", [False, True])
def test_the_same_bytes_for_any_number_of_processes_and_any_shards(full_sentences, corpus, tmp_path, small_tokenizer):
    made = []
    for processes, shard_bytes in [(1, SHARD_BYTES), (2, SHARD_BYTES), (3, SHARD_BYTES), (2, 400), (1, 1 << 20)]:
        _make(tmp_path, small_tokenizer, corpus, processes_num=processes, shard_bytes=shard_bytes,
              full_sentences=full_sentences)
        made.append((tmp_path / "d.pt").read_bytes())
    assert len(set(made)) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["corpus.txt", "d.pt"]


def test_instances_are_the_documents_cut(corpus, tmp_path, small_tokenizer):
    summary = _make(tmp_path, small_tokenizer, corpus)
    expected = []
    blank = 0
    for line in corpus.read_text(encoding="utf-8").split("\n")[:-1]:
        ids = small_tokenizer.encode(line)
        blank += not ids
        framed = [2, *ids, 3] if ids else []
        expected += [framed[start:start + 16] for start in range(0, len(framed), 16)]
    dataset = open_dataset(tmp_path / "d.pt")
    assert [dataset[i].tolist() for i in range(len(dataset))] == expected
    assert dataset.info.counts == summary.counts()
    assert summary.totals.blank_lines == blank and summary.totals.lines == 400
    assert summary.totals.full_instances == sum(len(instance) == 16 for instance in expected)
    assert summary.totals.unknown_tokens == sum(instance.count(1) for instance in expected)


def test_joined_documents_leave_only_the_last_instance_short(corpus, tmp_path, small_tokenizer):
    summary = _make(tmp_path, small_tokenizer, corpus, full_sentences=True)
    lengths = np.diff(open_dataset(tmp_path / "d.pt").offsets["src"])
    assert (lengths[:-1] == 16).all() and 0 < lengths[-1] <= 16
    assert summary.totals.instances == len(lengths)
    assert summary.totals.full_instances == (lengths == 16).sum()


@pytest.mark.parametrize(("seq_length", "instances", "full"), [(128, 6616, 4123), (512, 3138, None)])
def test_a_real_corpus_gives_the_originals_figures(seq_length, instances, full, tmp_path, shared_data, golden,
                                                   google_vocab):
    corpus = shared_data / "corpora" / "CLUECorpusSmall_sampled.txt"
    tokenizer = BertTokenizer(Vocab.load(google_vocab))
    summary = _make(tmp_path, tokenizer, corpus, seq_length=seq_length, shard_bytes=None, processes_num=2)
    assert (summary.totals.instances, summary.totals.tokens) == (instances, 663_005)
    assert full is None or summary.totals.full_instances == full
    tokens = open_dataset(tmp_path / "d.pt").tokens
    ids = np.load(golden / "token_ids_CLUECorpusSmall_sampled.npz")["ids"]
    assert np.array_equal(tokens[(tokens != 101) & (tokens != 102)], ids[(ids != 101) & (ids != 102)])


def test_static_masking_stores_nothing_more_than_its_settings(corpus, tmp_path, small_tokenizer):
    _make(tmp_path, small_tokenizer, corpus, dup_factor=5, seed=3, name="static.pt")
    _make(tmp_path, small_tokenizer, corpus, dynamic_masking=True, name="dynamic.pt")
    static, dynamic = (open_dataset(tmp_path / name) for name in ("static.pt", "dynamic.pt"))
    assert (static.info.dup_factor, static.info.seed, static.info.dynamic_masking) == (5, 3, False)
    assert (dynamic.info.dup_factor, dynamic.info.dynamic_masking) == (1, True)
    assert np.array_equal(static.tokens, dynamic.tokens)


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_give_the_plain_files_columns(compress, processes, corpus, tmp_path, small_tokenizer):
    _make(tmp_path, small_tokenizer, corpus)
    packed = tmp_path / "corpus.packed"
    packed.write_bytes(compress(corpus.read_bytes()))
    _make(tmp_path, small_tokenizer, packed, processes_num=processes, name="packed.pt")
    plain, unpacked = (open_dataset(tmp_path / name) for name in ("d.pt", "packed.pt"))
    assert np.array_equal(plain.tokens, unpacked.tokens)
    assert np.array_equal(plain.offsets["src"], unpacked.offsets["src"])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["corpus.packed", "corpus.txt", "d.pt", "packed.pt"]


def test_several_files_are_joined_in_order_and_damage_is_located_in_each(tmp_path, small_tokenizer):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\n\r\n" + b"b\n" * 50 + b"c\xff")
    (tmp_path / "b.txt").write_bytes(b"d\n\xfe\ne\n")
    summary = _make(tmp_path, small_tokenizer, tmp_path / "a.txt", tmp_path / "b.txt", shard_bytes=10)
    assert [(Path(path).name, line) for path, line, _ in summary.places] == [("a.txt", 53), ("b.txt", 2)]
    entries = small_tokenizer.vocab.ids
    tokens = open_dataset(tmp_path / "d.pt").tokens
    assert tokens[tokens > 3].tolist() == [entries[char] for char in "a" + "b" * 50 + "cde"]
    assert (summary.totals.documents, summary.totals.blank_lines, summary.totals.damaged_lines) == (54, 2, 2)


def test_many_small_files_share_a_shard_and_give_what_one_file_gives(tmp_path, small_tokenizer, monkeypatch):
    parts = [b"a b\n\xff\n", b"\xef\xbb\xbfc", b"x" * 500 + b"\n", b"d\n\n", b"\0e", b"f\n"]
    for number, part in enumerate(parts):
        (tmp_path / f"{number}.txt").write_bytes(gzip.compress(part) if number == 3 else part)
    seen = []
    real_build = build.build_shard

    def watched(shard, *rest):
        seen.append(str(shard).replace(str(tmp_path), ""))
        return real_build(shard, *rest)

    monkeypatch.setattr(build, "build_shard", watched)
    summary = _make(tmp_path, small_tokenizer, tmp_path, shard_bytes=400)
    assert seen == ["/0.txt to /1.txt, 2 files", "/2.txt, bytes 0 to 400", "/2.txt, bytes 400 to 501",
                    "/3.txt, decompressed bytes 0 to 3", "/4.txt to /5.txt, 2 files"]
    assert [(Path(path).name, line) for path, line, _ in summary.places] == [("0.txt", 2), ("4.txt", 1)]
    tokens = open_dataset(tmp_path / "d.pt").tokens
    assert tokens[tokens > 3].tolist() == [small_tokenizer.vocab.ids[char] for char in "abcdef"]
    assert summary.totals.lines == 8


def test_the_dataset_in_the_corpus_folder_is_not_read_as_text(tmp_path, small_tokenizer):
    (tmp_path / "a.txt").write_text("a\n")
    _make(tmp_path, small_tokenizer, tmp_path)
    first = (tmp_path / "d.pt").read_bytes()
    _make(tmp_path, small_tokenizer, tmp_path)
    assert (tmp_path / "d.pt").read_bytes() == first
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match="holds nothing but the dataset"):
        _make(tmp_path, small_tokenizer, tmp_path)


def test_json_lines(tmp_path, small_tokenizer):
    records = [{"text": "a b"}, {"other": "c"}, {"text": ""}, {"text": "d\ne"}]
    (tmp_path / "a.json").write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = _make(tmp_path, small_tokenizer, tmp_path / "a.json", text_field="text")
    totals = summary.totals
    assert (totals.lines, totals.documents, totals.blank_lines, totals.left_out_lines) == (4, 2, 1, 1)
    assert summary.places[0][1:] == (2, "no field 'text', left out")


def test_one_long_line_crosses_many_shards(tmp_path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(shards, "LONG_LINE", 2000)
    text = _text(60).replace("\n", " ")
    (tmp_path / "a.txt").write_text(f"a\n{text}\nb\n", encoding="utf-8")
    summary = _make(tmp_path, small_tokenizer, tmp_path / "a.txt", shard_bytes=500)
    assert (summary.totals.documents, summary.totals.lines) == (3, 3)
    tokens = open_dataset(tmp_path / "d.pt").tokens
    assert tokens[tokens > 3].tolist() == [token for token in small_tokenizer.encode(f"a {text} b") if token > 3]


# --- what goes wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the corpus is empty"), (b"\n \n\r\n", "no document among 3 lines: 3 are blank"),
    (b"\0\n\xe2\x80\x8b\n", "no document among 2 lines"),
])
def test_a_corpus_without_documents_is_named(content, message, tmp_path, small_tokenizer):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        _make(tmp_path, small_tokenizer, tmp_path / "a.txt")
    assert "a.txt" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("compress", [lambda data: data, gzip.compress])
def test_a_damaged_line_can_stop_the_run(compress, processes, tmp_path, small_tokenizer):
    text = b"a\n" * 4000 + b"a\xff\n" + b"a\n" * 4000 + b"\xfe\n" + b"a\n" * 100
    (tmp_path / "a.txt").write_bytes(compress(text))
    with pytest.raises(UserError, match=r"a.txt: line 4001: byte 0xff at column 2"):
        _make(tmp_path, small_tokenizer, tmp_path / "a.txt", encoding_errors="stop", processes_num=processes)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_that_fails_names_its_shard(processes, corpus, tmp_path, small_tokenizer, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(build, "build_shard", fail)
    with pytest.raises(RuntimeError, match=r"corpus.txt, bytes 0 to 3000") as caught:
        _make(tmp_path, small_tokenizer, corpus, processes_num=processes)
    assert "ZeroDivisionError" in str(caught.value) + repr(caught.value.__cause__)


def test_a_killed_worker_stops_the_run(corpus, tmp_path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(build, "build_shard", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"killed by SIGKILL.* while it worked on .*corpus.txt, bytes"):
        _make(tmp_path, small_tokenizer, corpus, processes_num=2)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_is_one_line_and_the_work_goes_on_afterwards(processes, corpus, tmp_path, small_tokenizer,
                                                                 monkeypatch):
    _make(tmp_path, small_tokenizer, corpus, name="other.pt")
    real = shards.write_marker

    def full(path, content):
        if path.name.startswith("000000-000004"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_marker", full)
        with pytest.raises(UserError, match="No space left on device; free some space"):
            _make(tmp_path, small_tokenizer, corpus, processes_num=processes)
    (folder,) = tmp_path.glob("d.pt.work-*")
    done = {marker: marker.stat().st_mtime_ns for marker in folder.glob("*.json")}
    assert len(done) >= 4

    seen = []
    real_build = build.build_shard

    def watched(shard, *rest):
        seen.append(shard.index)
        return real_build(shard, *rest)

    monkeypatch.setattr(build, "build_shard", watched)
    notes = []
    _make(tmp_path, small_tokenizer, corpus, notes=notes)
    assert any(f"going on with the {len(done)} shards" in note for note in notes)
    assert seen and not {f"000000-{index:06d}" for index in seen} & {marker.stem for marker in done}
    assert (tmp_path / "d.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()


def test_a_full_disk_while_the_shards_are_joined(corpus, tmp_path, small_tokenizer, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_dataset", full)
        with pytest.raises(UserError, match="No space left"):
            _make(tmp_path, small_tokenizer, corpus)
    _make(tmp_path, small_tokenizer, corpus)


def test_a_disk_that_is_too_small_is_foreseen(corpus, tmp_path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match=r"needs about .* kB while it is made .* the disk has 1.0 kB left"):
        _make(tmp_path, small_tokenizer, corpus)
    assert [entry.name for entry in tmp_path.iterdir()] == ["corpus.txt"]


def test_the_forecast_is_near_the_truth(corpus, tmp_path, small_tokenizer):
    dataset = DatasetConfig(corpus_path=(str(corpus),), dataset_path=str(tmp_path / "d.pt"), data_processor="mlm",
                            seq_length=16)
    settings = build.build_settings(dataset, {"src": small_tokenizer})
    packed = tmp_path / "corpus.gz"
    packed.write_bytes(gzip.compress(corpus.read_bytes()))
    _make(tmp_path, small_tokenizer, corpus)
    size = (tmp_path / "d.pt").stat().st_size
    for path in (corpus, packed):
        expected = forecast.forecast(build.find_files([str(path)]), settings).dataset_bytes
        assert 0.8 * size < expected < 1.2 * size


@pytest.mark.parametrize(("dataset_path", "message"), [
    ("corpus.txt/d.pt", "cannot be written to"), ("", "is a folder"), ("corpus.txt", "would be overwritten")])
def test_a_useless_dataset_path_is_refused_before_the_work(dataset_path, message, corpus, tmp_path, small_tokenizer):
    with pytest.raises(UserError, match=message):
        _make(tmp_path, small_tokenizer, corpus, name=dataset_path)


# --- remarks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "warning"), [
    ("a b c\nd e f\na c\n\n" * 30, "one sentence a line"), ("a b c d e\n" * 100, None), ("a b c d e\n\n" * 100, None),
    ('{"text": "a"}\n' * 100, "looks like JSON lines"),
])
def test_a_corpus_for_another_command_is_noticed(content, warning, tmp_path, small_tokenizer):
    (tmp_path / "a.txt").write_text(content)
    notes = []
    _make(tmp_path, small_tokenizer, tmp_path / "a.txt", notes=notes)
    assert [warning in note for note in notes] == ([True] if warning else [])


def test_the_summary_says_what_was_lost_and_what_is_unknown(tmp_path, small_tokenizer):
    (tmp_path / "a.txt").write_bytes("a语 鑫鑫龘\n\n𠀀é☃☃☃\n".encode() + b"\xff\n" * 15 + b"x\0\n")
    summary = _make(tmp_path, small_tokenizer, tmp_path / "a.txt")
    text = "\n".join(summary.lines(10, [small_tokenizer]))
    assert "documents: 3 (16 blank lines skipped)" in text  # the damaged lines, once replaced, hold no token
    assert "damaged lines: 15 not UTF-8, replaced" in text and "damaged lines: 1 NUL bytes, dropped" in text
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


# --- kills and fuzz ----------------------------------------------------------------------------------------------


def _killed_after(seconds: float, work) -> bool:
    """Run `work` in a forked process and kill it with SIGKILL; -> whether it had not ended before."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


@pytest.mark.parametrize("packed", [False, True])
def test_killed_at_random_moments_it_ends_with_the_same_file(packed, tmp_path, small_tokenizer):
    path = tmp_path / "corpus"
    text = _text(3000).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    (tmp_path / "whole").mkdir()
    start = time.monotonic()
    _make(tmp_path / "whole", small_tokenizer, path, shard_bytes=20_000, processes_num=2)
    usual = time.monotonic() - start
    whole = (tmp_path / "whole" / "d.pt").read_bytes()
    chance = random.Random(11)
    kills = 0
    for _ in range(40):
        killed = _killed_after(chance.random() * usual, lambda: _make(
            tmp_path, small_tokenizer, path, shard_bytes=20_000, processes_num=chance.choice([1, 2])))
        kills += killed
        usual *= 1 if killed else 0.7  # a busy machine may have made the first run slow
        if kills == 5:
            break
        if (tmp_path / "d.pt").exists():
            assert (tmp_path / "d.pt").read_bytes() == whole
    _make(tmp_path, small_tokenizer, path, shard_bytes=20_000, processes_num=2)
    assert kills == 5
    assert (tmp_path / "d.pt").read_bytes() == whole
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["corpus", "d.pt", "whole"]


def test_another_command_does_not_take_over_the_shards(corpus, tmp_path, small_tokenizer, monkeypatch):
    def stop(*_):
        raise OSError(errno.EIO, "stopped")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_dataset", stop)
        with pytest.raises((OSError, UserError), match="stopped"):
            _make(tmp_path, small_tokenizer, corpus)
    notes = []
    _make(tmp_path, small_tokenizer, corpus, seq_length=32, notes=notes)
    assert sum("another command left" in note for note in notes) == 1
    assert open_dataset(tmp_path / "d.pt").info.seq_length == 32
    corpus.write_text(_text(400, seed=2), encoding="utf-8")
    summary = _make(tmp_path, small_tokenizer, corpus)
    assert summary.totals.tokens == _make(tmp_path, small_tokenizer, corpus, name="again.pt").totals.tokens


def test_two_commands_for_one_dataset_are_told_apart(corpus, tmp_path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.1)
    with lock.OutputLock(tmp_path / "d.pt"), pytest.raises(UserError, match=r"--dataset_path .*another run"):
        _make(tmp_path, small_tokenizer, corpus, seq_length=32)
    assert not list(tmp_path.glob("d.pt*"))
    _make(tmp_path, small_tokenizer, corpus, seq_length=32)
    assert not (tmp_path / "d.pt.lock").exists()


def _random_bytes(chance: random.Random) -> bytes:
    size = chance.randrange(1, 2000)
    kind = chance.randrange(3)
    if kind == 0:
        return chance.randbytes(size)
    if kind == 1:  # mostly text
        return b"".join(chance.choice([b"\n", b"\r\n", b"a", b" ", "语".encode(), b"\xff", b"\0", b"\xe8\xaf"])
                        for _ in range(size))
    points = (chance.choice([chance.randrange(0xD800), chance.randrange(0xE000, 0x110000), 10]) for _ in range(size))
    return "".join(map(chr, points)).encode()


def test_random_corpora_never_crash_and_the_report_is_right_to_the_line(tmp_path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(report, "SHOWN_PLACES", 10_000)
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
        summary = _make(tmp_path, small_tokenizer, path, shard_bytes=chance.choice([300, 1000]))
        assert summary.places == expected, round_number
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
    assert [(Path(path).name, line) for path, line, _ in summary.places] == sorted([*places, bad[:2]])


def test_a_sentence_in_pieces_is_left_out_once(tmp_path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(shards, "LONG_LINE", 100)
    monkeypatch.setattr(pools, "POOL_TOKENS", 60)
    monkeypatch.setattr(pools, "LARGEST_DOCUMENT", 120)
    (tmp_path / "a.txt").write_text("a\nb\n" + "a " * 800 + "\nc\n\nd\n")
    summary = build_dataset(DatasetConfig(corpus_path=(str(tmp_path / "a.txt"),), dataset_path=str(tmp_path / "d.pt"),
                                          data_processor="bart", seq_length=7), {"src": small_tokenizer})
    assert [place[1:] for place in summary.places] == [
        (3, "the sentence has more than --seq_length - 2 = 5 tokens, left out")]
    assert summary.totals.left_out_lines == 1
