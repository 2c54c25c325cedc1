"""One run at a time writes under an output path or works in a folder."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from uer.errors import UserError
from uer.files import make_folder

PATIENCE_SECONDS = 10.0
"""How long the ranks of a killed run may take to notice that it has ended."""
RETRY_SECONDS = 0.1


class Lock:
    """Holds the lock file `path` until `release`, or until this process and the children that inherited the lock end.

        with Lock("models/family/.lock", "--output_dir models/family: another run is working there") as lock:
            subprocess.Popen(command, pass_fds=(lock.fileno(),))  # the child holds it too, as forked processes do

    The file is removed at the end, unless it has content: then it is not ours, and is locked but neither changed nor
    removed. On a file system without locks nothing is locked.

    Args:
        path: the lock file; its folder is made.
        refusal: the error message if another process holds it.
        patience: seconds to wait for the process that holds it; None for `PATIENCE_SECONDS`.
        on_wait: called once if another process holds it.

    Raises:
        UserError: another process still holds it after `patience` seconds, or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike, refusal: str, patience: float | None = None,
                 on_wait: Callable[[], None] = lambda: None) -> None:
        self._path = Path(os.path.abspath(path))
        self._file: IO[bytes] | None = None
        make_folder(self._path.parent)
        until, waiting = time.monotonic() + (PATIENCE_SECONDS if patience is None else patience), False
        while not self._take():
            if time.monotonic() > until:
                raise UserError(refusal)
            if not waiting:
                on_wait()
            waiting = True
            time.sleep(RETRY_SECONDS)

    def _take(self) -> bool:
        try:
            file = open(self._path, "ab")  # noqa: SIM115 - held until release
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written to: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
                self._file = file
                return True
        except (BlockingIOError, FileNotFoundError):  # held, or removed by a run that has just ended
            pass
        except OSError:  # a file system without locks
            self._file = file
            return True
        file.close()
        return False

    def fileno(self) -> int:
        """The descriptor that a child process has to inherit (`pass_fds`) to hold the lock too."""
        assert self._file is not None, "the lock was released"
        return self._file.fileno()

    def release(self) -> None:
        """Release the lock."""
        if self._file is not None:
            if os.fstat(self._file.fileno()).st_size == 0:
                self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


class OutputLock(Lock):
    """The lock `<output>.lock` of a file, a folder, or all files whose names begin with `output`.

        with OutputLock("models/model.bin"):
            ...

    Args:
        output: what is written.
        flag: the flag that names it, for the message.
        patience: seconds to wait for another run.

    Raises:
        UserError: another run holds it.
    """

    def __init__(self, output: str | os.PathLike, flag: str = "--output_model_path",
                 patience: float | None = None) -> None:
        output = Path(os.path.abspath(output))
        super().__init__(output.with_name(f"{output.name}.lock"), f"{flag} {output}: another run is writing there",
                         patience)
