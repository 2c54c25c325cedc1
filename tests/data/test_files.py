"""A final name holds a whole file or the one before."""

import pytest

from uer.data.files import atomic_path
from uer.errors import UserError


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


def test_a_missing_folder_and_a_folder_as_target_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"), atomic_path(tmp_path / "no" / "model.bin"):
        pass
    with pytest.raises(UserError, match="is a folder"), atomic_path(tmp_path):
        pass
