"""Writing files: a final name only ever holds a whole file, and what cannot be written is found out before the work.

The folder of an output is made where it is missing.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from uer.errors import UserError


@contextmanager
def atomic_path(final: str | os.PathLike) -> Iterator[Path]:
    """Yield a path beside `final` to write to; `final` appears, complete and on disk, when the block ends well.

    When the block raises, the temporary file is removed and `final` stays as it was. After a kill the temporary file
    may stay; the next writer of the same name overwrites it.

        with atomic_path("model.bin") as path:
            torch.save(weights, path)

    Raises:
        UserError: `final` is a folder, or its folder cannot be made.
    """
    final = Path(final)
    if final.is_dir():
        raise UserError(f"{final}: is a folder; a file name is needed")
    make_folder(final.parent)
    temporary = final.with_name(final.name + ".tmp")
    try:
        yield temporary
        flush_to_disk(temporary)
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_to_disk(final.parent)


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
    prepare_folder(path, flag)
    for other in inputs:
        if other is not None and path.exists() and Path(other).exists() and path.samefile(other):
            raise UserError(f"{flag}: {path} is an input of this command and would be overwritten")


def prepare_folder(path: str | os.PathLike, flag: str) -> None:
    """Make the folder of files whose names begin with `path`, and see that it can be written to.

    Raises:
        UserError: it cannot.
    """
    folder = Path(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{flag} {path}: {folder} cannot be written to: {error.strerror}") from None


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}") from None


def flush_to_disk(path: str | os.PathLike) -> None:
    """Return when what was written to this file, or renamed in this folder, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
