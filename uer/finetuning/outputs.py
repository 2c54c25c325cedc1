"""What cannot be written must not be found out after the training, and no output may replace an input."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from uer.errors import UserError


def prepare_file(path: str | os.PathLike, flag: str, inputs: Iterable[str | os.PathLike | None] = ()) -> None:
    """Make the folder of a file that will be written, and see that it can be.

    Args:
        path: the file.
        flag: the flag that names it.
        inputs: files of the same command that must stay as they are.

    Raises:
        UserError: it cannot be written, is a folder, or is one of `inputs`.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a folder; a file name is needed")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{flag} {path}: {path.parent} cannot be written to: {error.strerror}") from None
    for other in inputs:
        if other is not None and path.exists() and Path(other).exists() and path.samefile(other):
            raise UserError(f"{flag}: {path} is an input of this command and would be overwritten")
