"""One run at a time writes under an output path."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from uer.errors import UserError
from uer.files import make_folder

PATIENCE_SECONDS = 10.0
"""How long the ranks of a killed run may take to notice that it is gone."""


class OutputLock:
    """Holds `<output>.lock` until `release`, or until the process ends, however it ends.

        with OutputLock("models/model.bin"):
            ...

    A file of that name that has content is somebody's own: it is locked, but neither changed nor removed.

    Args:
        output: the file, folder or beginning of names that is written.
        flag: the flag that names it, for the message.
        patience: seconds to wait for another run.

    Raises:
        UserError: another run holds it.
    """

    def __init__(self, output: str | os.PathLike, flag: str = "--output_model_path",
                 patience: float | None = None) -> None:
        output = Path(os.path.abspath(output))
        self._path = output.with_name(f"{output.name}.lock")
        self._file: IO[bytes] | None = None
        make_folder(output.parent)
        until = time.monotonic() + (PATIENCE_SECONDS if patience is None else patience)
        while not self._take():
            if time.monotonic() > until:
                raise UserError(f"{flag} {output}: another run is writing there")
            time.sleep(0.1)

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

    def release(self) -> None:
        """Let others write."""
        if self._file is not None:
            if os.fstat(self._file.fileno()).st_size == 0:
                self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def __enter__(self) -> "OutputLock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
