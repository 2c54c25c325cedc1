"""A final name holds a whole file or the one before."""

import pytest

from uer.errors import UserError
from uer.files import atomic_path, prepare_file, prepare_folder


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
    prepare_file(tmp_path / "a" / "b" / "out.tsv", "--prediction_path", (source, None))
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with pytest.raises(UserError, match=r"--prediction_path: .*in.tsv is an input of this command"):
        prepare_file(tmp_path / "a" / ".." / "in.tsv", "--prediction_path", (source,))
    with pytest.raises(UserError, match=r"--prediction_path .*: is a folder"):
        prepare_file(tmp_path, "--prediction_path")
    with pytest.raises(UserError, match=r"--output_model_path .*: .*in.tsv cannot be written to: "):
        prepare_folder(source / "model.bin", "--output_model_path")
