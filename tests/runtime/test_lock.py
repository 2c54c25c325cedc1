"""One holder at a time, here and in other processes."""

import subprocess
import sys

import pytest

from uer.errors import UserError
from uer.runtime.lock import Lock, OutputLock


def test_one_holder_at_a_time_and_nothing_is_left_behind(tmp_path):
    waits = []
    with Lock(tmp_path / "new" / ".lock", "it is taken"):
        with pytest.raises(UserError, match=r"^it is taken$"):
            Lock(tmp_path / "new" / ".lock", "it is taken", patience=0.25, on_wait=lambda: waits.append(1))
        Lock(tmp_path / "new" / ".other", "it is taken", patience=0.0).release()
    assert waits == [1] and not list((tmp_path / "new").iterdir())


def test_a_child_that_inherits_the_lock_holds_it_until_it_ends(tmp_path):
    lock = Lock(tmp_path / ".lock", "it is taken")
    child = subprocess.Popen([sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(lock.fileno(),))
    child.stdout.readline()
    lock._file.close()  # as where its parent is killed
    with pytest.raises(UserError, match="it is taken"):
        Lock(tmp_path / ".lock", "it is taken", patience=0.0)
    child.communicate(b"")
    Lock(tmp_path / ".lock", "it is taken", patience=0.0).release()


def test_a_file_with_content_is_somebodys_own(tmp_path):
    (tmp_path / "m.lock").write_text("notes")
    with OutputLock(tmp_path / "m"), pytest.raises(UserError, match=r"--output_model_path .*m: another run is writing"):
        OutputLock(tmp_path / "m", patience=0.0)
    assert (tmp_path / "m.lock").read_text() == "notes"
