"""What stops or disturbs a build: bad corpora, failing and killed processes, full disks, other commands."""

import errno
import gzip
import os
import random
import shutil
import signal
import time

import pytest

from tests.data.conftest import make, random_text
from uer.config import DatasetConfig
from uer.data import build, shards, store
from uer.data import estimate as forecast
from uer.data.store import open_dataset
from uer.errors import UserError
from uer.runtime import lock


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the corpus is empty"), (b"\n \n\r\n", "no document among 3 lines: 3 blank"),
    (b"\0\n\xe2\x80\x8b\n", "no document among 2 lines"),
])
def test_a_corpus_without_documents_is_named(content, message, tmp_path, small_tokenizer):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path, small_tokenizer, tmp_path / "a.txt")
    assert "a.txt" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("compress", [lambda data: data, gzip.compress])
def test_a_damaged_line_can_stop_the_run(compress, processes, tmp_path, small_tokenizer):
    text = b"ba\n" + b"a\n" * 3999 + b"a\xff\n" + b"a\n" * 4000 + b"\xfe\n" + b"a\n" * 100  # shards end inside lines
    (tmp_path / "a.txt").write_bytes(compress(text))
    with pytest.raises(UserError, match=r"a.txt: line 4001: byte 0xff at column 2"):
        make(tmp_path, small_tokenizer, tmp_path / "a.txt", encoding_errors="stop", processes_num=processes)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_that_fails_names_its_shard(processes, corpus, tmp_path, small_tokenizer, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(build, "build_shard", fail)
    with pytest.raises(RuntimeError, match=r"corpus.txt, bytes 0 to 3000") as caught:
        make(tmp_path, small_tokenizer, corpus, processes_num=processes)
    assert "ZeroDivisionError" in str(caught.value) + repr(caught.value.__cause__)


def test_a_killed_worker_stops_the_run(corpus, tmp_path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(build, "build_shard", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"killed by SIGKILL.* while it worked on .*corpus.txt, bytes"):
        make(tmp_path, small_tokenizer, corpus, processes_num=2)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_is_one_line_and_the_work_goes_on_afterwards(processes, corpus, tmp_path, small_tokenizer,
                                                                 monkeypatch):
    make(tmp_path, small_tokenizer, corpus, name="other.pt")
    real = shards.write_marker

    def full(path, content):
        if path.name.startswith("000000-000004"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_marker", full)
        with pytest.raises(UserError, match="No space left on device; free some space"):
            make(tmp_path, small_tokenizer, corpus, processes_num=processes)
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
    make(tmp_path, small_tokenizer, corpus, notes=notes)
    assert any(f"going on with the {len(done)} shards" in note for note in notes)
    assert seen and not {f"000000-{index:06d}" for index in seen} & {marker.stem for marker in done}
    assert (tmp_path / "d.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()


def test_a_full_disk_while_the_shards_are_joined(corpus, tmp_path, small_tokenizer, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_dataset", full)
        with pytest.raises(UserError, match="No space left"):
            make(tmp_path, small_tokenizer, corpus)
    make(tmp_path, small_tokenizer, corpus)


def test_a_disk_that_is_too_small_is_foreseen(corpus, tmp_path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match=r"needs about .* kB while it is made .* the disk has 1.0 kB left"):
        make(tmp_path, small_tokenizer, corpus)
    assert [entry.name for entry in tmp_path.iterdir()] == ["corpus.txt"]


def test_the_forecast_is_near_the_truth(corpus, tmp_path, small_tokenizer):
    dataset = DatasetConfig(corpus_path=(str(corpus),), dataset_path=str(tmp_path / "d.pt"), data_processor="mlm",
                            seq_length=16)
    settings = build.build_settings(dataset, {"src": small_tokenizer})
    packed = tmp_path / "corpus.gz"
    packed.write_bytes(gzip.compress(corpus.read_bytes()))
    make(tmp_path, small_tokenizer, corpus)
    size = (tmp_path / "d.pt").stat().st_size
    for path in (corpus, packed):
        expected = forecast.forecast(build.find_files([str(path)]), settings).dataset_bytes
        assert 0.8 * size < expected < 1.2 * size


@pytest.mark.parametrize(("dataset_path", "message"), [
    ("corpus.txt/d.pt", "cannot be written to"), ("", "is a folder"), ("corpus.txt", "would be overwritten")])
def test_a_useless_dataset_path_is_refused_before_the_work(dataset_path, message, corpus, tmp_path, small_tokenizer):
    with pytest.raises(UserError, match=message):
        make(tmp_path, small_tokenizer, corpus, name=dataset_path)


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
    text = random_text(1200).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    (tmp_path / "whole").mkdir()
    start = time.monotonic()
    make(tmp_path / "whole", small_tokenizer, path, shard_bytes=10_000, processes_num=2)
    usual = time.monotonic() - start
    whole = (tmp_path / "whole" / "d.pt").read_bytes()
    chance = random.Random(11)
    kills = 0
    for _ in range(40):
        killed = _killed_after(chance.random() * usual, lambda: make(
            tmp_path, small_tokenizer, path, shard_bytes=10_000, processes_num=chance.choice([1, 2])))
        kills += killed
        usual *= 1 if killed else 0.7  # a busy machine may have made the first run slow
        if kills == 5:
            break
        if (tmp_path / "d.pt").exists():
            assert (tmp_path / "d.pt").read_bytes() == whole
    make(tmp_path, small_tokenizer, path, shard_bytes=10_000, processes_num=2)
    assert kills == 5
    assert (tmp_path / "d.pt").read_bytes() == whole
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["corpus", "d.pt", "whole"]


def test_another_command_does_not_take_over_the_shards(corpus, tmp_path, small_tokenizer, monkeypatch):
    def stop(*_):
        raise OSError(errno.EIO, "stopped")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_dataset", stop)
        with pytest.raises((OSError, UserError), match="stopped"):
            make(tmp_path, small_tokenizer, corpus)
    notes = []
    make(tmp_path, small_tokenizer, corpus, seq_length=32, notes=notes)
    assert sum("another command left" in note for note in notes) == 1
    assert open_dataset(tmp_path / "d.pt").info.seq_length == 32
    corpus.write_text(random_text(160, seed=2), encoding="utf-8")
    summary = make(tmp_path, small_tokenizer, corpus)
    assert summary.totals.tokens == make(tmp_path, small_tokenizer, corpus, name="again.pt").totals.tokens


def test_two_commands_for_one_dataset_are_told_apart(corpus, tmp_path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.1)
    with lock.OutputLock(tmp_path / "d.pt"), pytest.raises(UserError, match=r"--dataset_path .*another run"):
        make(tmp_path, small_tokenizer, corpus, seq_length=32)
    assert not list(tmp_path.glob("d.pt*"))
    make(tmp_path, small_tokenizer, corpus, seq_length=32)
    assert not (tmp_path / "d.pt.lock").exists()
