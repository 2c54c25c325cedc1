"""Writes files atomically: no file with a final name is ever incomplete. Checks early that outputs can be written.

The folder of an output is made if it is missing.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from uer.errors import UserError
from uer.reading import naming

# What the name of a temporary file has behind the final one, such as "model.bin.0a1b2c3d.tmp" (a pattern).
TEMPORARY_ENDING = r"\.[0-9a-f]{8}\.tmp"


@contextmanager
def atomic_path(final: str | os.PathLike) -> Iterator[Path]:
    """Yield a path beside `final` to write to; `final` appears, complete and on disk, when the block ends well.

    When the block raises, the temporary file is removed and `final` stays as it was. Its name is random; one that a
    killed run left behind is removed by the next writer of the same name. Where `final` is a link, the file that it
    points to is written.

        with atomic_path("model.bin") as path:
            torch.save(weights, path)

    Raises:
        UserError: `final` is a folder or no regular file, or its folder cannot be made.
        OSError: a write failed; it names `final`.
    """
    final = _writable(final)
    make_folder(final.parent)
    _remove_left_over(final)
    temporary, held = _temporary(final, _make_file)
    try:
        with naming(final):
            yield temporary
            flush_to_disk(temporary)
            os.replace(temporary, final)
            flush_to_disk(final.parent)
    except OSError as error:
        if error.filename != str(temporary):
            raise
        raise OSError(error.errno, error.strerror, str(final)) from None
    finally:
        temporary.unlink(missing_ok=True)
        os.close(held)


@contextmanager
def atomic_folder(final: str | os.PathLike) -> Iterator[Path]:
    """Yield a new folder beside `final` to write files to; they appear in `final`, complete, when the block ends well.

    A `final` that is not there yet appears in one step. In one that is, each file is replaced in one step, and files of
    other names stay. When the block raises, `final` stays as it was.

    Raises:
        UserError: `final` is a file, or the folder above cannot be made.
    """
    final = Path(os.path.realpath(final))
    make_folder(final.parent)
    if final.exists() and not final.is_dir():
        raise UserError(f"{final}: is a file; a folder is needed")
    _remove_left_over(final)
    temporary, held = _temporary(final, _make_folder)
    try:
        yield temporary
        written = sorted(temporary.iterdir())
        for path in sorted(temporary.rglob("*")):
            flush_to_disk(path)
        if not final.exists():
            temporary.rename(final)
        else:
            for path in written:
                _place(path, final / path.name)
            flush_to_disk(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(held)
    flush_to_disk(final.parent)


def _place(path: Path, final: Path) -> None:
    """Move a file to `final`, or the files of a folder into that of this name."""
    if not (path.is_dir() and final.is_dir()):
        path.replace(final)
        return
    for each in sorted(path.iterdir()):
        _place(each, final / each.name)
    flush_to_disk(final)


def _writable(final: str | os.PathLike) -> Path:
    path = Path(os.path.realpath(final)) if os.path.islink(final) else Path(final)
    if path.is_dir():
        raise UserError(f"{final}: is a folder; a file name is needed")
    if path.exists() and not path.is_file():
        raise UserError(f"{final}: is not a regular file")
    return path


def _temporary(final: Path, make: Callable[[Path], int | None]) -> tuple[Path, int]:
    """A new file or folder beside `final`, and a descriptor that holds its lock: as long as it is held, it is in use.

    Before the lock is taken another writer may have removed it as left over; then it is made again.
    """
    while True:
        temporary = final.with_name(f"{final.name}.{secrets.token_hex(4)}.tmp")
        try:
            held = make(temporary)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(final)) from None
        if held is None:
            continue
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, held
        os.close(held)


def _make_file(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)


def _make_folder(path: Path) -> int | None:
    path.mkdir()
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # another writer has removed it as left over
        return None


def _remove_left_over(final: Path) -> None:
    """Remove the temporary files and folders of `final` that no process holds any more."""
    try:
        names = [name for name in os.listdir(final.parent)
                 if re.fullmatch(re.escape(final.name) + TEMPORARY_ENDING, name)]
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            descriptor = os.open(final.parent / name, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.isdir(final.parent / name):
                    shutil.rmtree(final.parent / name, ignore_errors=True)
                else:
                    os.unlink(final.parent / name)
            finally:
                os.close(descriptor)


def prepare_file(path: str | os.PathLike, flag: str) -> None:
    """Make the folder of a file that will be written, and see that it can be; `uer.paths` compares it with inputs.

    Args:
        path: the file.
        flag: the flag that names it.

    Raises:
        UserError: it cannot be written, or is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a folder; a file name is needed")
    prepare_folder(path, flag)


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
