"""One run at a time writes under an output path."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from uer.errors import UserError

PATIENCE_SECONDS = 10.0
"""How long the ranks of a killed run may take to notice that it is gone."""


class OutputLock:
    """Holds `<output_model_path>.lock` until `release`, or until the process ends, however it ends.

    Raises:
        UserError: another run holds it.
    """

    def __init__(self, output: Path, patience: float = PATIENCE_SECONDS) -> None:
        self._path = output.with_name(f"{output.name}.lock")
        self._file: IO[bytes] | None = None
        until = time.monotonic() + patience
        while not self._take():
            if time.monotonic() > until:
                raise UserError(f"--output_model_path {output}: another run is writing there")
            time.sleep(0.1)

    def _take(self) -> bool:
        file = open(self._path, "wb")  # noqa: SIM115 - held until release
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
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None
