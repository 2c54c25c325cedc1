"""A final name holds a whole file or the one before."""

import errno
import os

import pytest

from uer import files
from uer.errors import UserError
from uer.files import atomic_folder, atomic_path, prepare_file, prepare_folder


def test_the_name_appears_when_the_block_ends(tmp_path):
    final = tmp_path / "model.bin"
    with atomic_path(final) as path:
        path.write_text("new")
        assert path.parent == tmp_path and not final.exists()
    assert final.read_text() == "new"
    assert list(tmp_path.iterdir()) == [final]


def test_a_failure_keeps_the_old_file(tmp_path):
    final = tmp_path / "model.bin"
    final.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(final) as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    final = tmp_path / "model.bin"
    with atomic_path(final) as path:
        left = path
        path.write_text("x")
    left.write_text("left behind by a killed run")
    with atomic_path(final) as path:
        path.write_text("new")
    assert final.read_text() == "new" and not left.exists()


def test_the_users_own_files_beside_it_stay(tmp_path):
    final, own = tmp_path / "model.bin", tmp_path / "model.bin.tmp"
    own.write_text("mine")
    (tmp_path / "hf.tmp").mkdir()
    (tmp_path / "hf.tmp" / "a").write_text("mine")
    with atomic_path(final) as path:
        path.write_text("x")
    with atomic_folder(tmp_path / "hf") as folder:
        (folder / "b").write_text("x")
    assert own.read_text() == "mine" and (tmp_path / "hf.tmp" / "a").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "hf.tmp", "model.bin", "model.bin.tmp"]


@pytest.mark.parametrize("write", [atomic_path, atomic_folder])
def test_a_file_system_that_makes_no_files_is_an_error(write, tmp_path, monkeypatch):
    calls = iter(range(5))

    def refuse(*_, **__):  # as in /proc, whose folders are there
        assert next(calls, None) is not None, "asked again and again"
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(files, "_make_file", refuse)
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    monkeypatch.setattr(files, "make_folder", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"model\.bin"), write(tmp_path / "model.bin"):
        pass


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    final = tmp_path / "model.bin"
    with atomic_path(final) as one:
        one.write_text("one")
        with atomic_path(final) as two, atomic_folder(tmp_path / "hf") as folder:
            two.write_text("two")
            (folder / "a").write_text("a")
            with atomic_folder(tmp_path / "hf") as other:
                (other / "b").write_text("b")
    assert final.read_text() == "one"
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == ["a", "b"]


def test_a_temporary_file_that_another_writer_took_for_left_over_is_made_again(tmp_path, monkeypatch):
    """Between making it and locking it; the second time it stays."""
    made = []

    def meddle(make):
        def make_and_remove(path):
            held = make(path)
            made.append(path)
            if len(made) % 2:
                path.rmdir() if path.is_dir() else path.unlink()
            return held
        return make_and_remove

    for name in ("_make_file", "_make_folder"):
        monkeypatch.setattr(files, name, meddle(getattr(files, name)))
    with atomic_path(tmp_path / "m.bin") as path:
        path.write_text("x")
    with atomic_folder(tmp_path / "hf") as folder:
        (folder / "a").write_text("x")
    assert len(made) == 4 and sorted(path.name for path in tmp_path.iterdir()) == ["hf", "m.bin"]


def test_a_link_stays_and_its_file_is_written(tmp_path):
    (tmp_path / "link.bin").symlink_to(tmp_path / "real.bin")
    for text in ("new", "newer"):
        with atomic_path(tmp_path / "link.bin") as path:
            path.write_text(text)
        assert (tmp_path / "link.bin").is_symlink() and (tmp_path / "real.bin").read_text() == text


def test_a_device_is_no_target(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", tmp_path / "pipe"):
        with pytest.raises(UserError, match="not a regular file"), atomic_path(path):
            pass


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "model.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "model.bin") and not list(tmp_path.iterdir())
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "model.bin") as path:
        raise OSError(errno.EACCES, "Permission denied", str(path))
    assert caught.value.filename == str(tmp_path / "model.bin")


def test_a_missing_folder_is_made_and_a_folder_as_target_is_named(tmp_path):
    with atomic_path(tmp_path / "new" / "deep" / "model.bin") as path:
        path.write_text("x")
    assert (tmp_path / "new" / "deep" / "model.bin").read_text() == "x"
    with pytest.raises(UserError, match="is a folder"), atomic_path(tmp_path):
        pass
    blocked = tmp_path / "file" / "model.bin"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot be made: "), atomic_path(blocked):
        pass


def test_outputs_are_prepared_before_the_work(tmp_path):
    source = tmp_path / "in.tsv"
    source.write_text("label\n")
    prepare_file(tmp_path / "a" / "b" / "out.tsv", "--prediction_path")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with pytest.raises(UserError, match=r"--prediction_path .*: is a folder"):
        prepare_file(tmp_path, "--prediction_path")
    with pytest.raises(UserError, match=r"--output_model_path .*: .*in.tsv cannot be written to: "):
        prepare_folder(source / "model.bin", "--output_model_path")
