"""Reads files that a user names: regular files only, with the file's name in every error."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uer.errors import UserError

KINDS = {stat.S_IFDIR: "is a folder", stat.S_IFIFO: "is a named pipe", stat.S_IFCHR: "is a device",
         stat.S_IFBLK: "is a device", stat.S_IFSOCK: "is a socket"}


def require_regular(path: str | os.PathLike, flag: str = "") -> int:
    """Check that a path is a regular file; returns its size in bytes.

    Reading a named pipe could wait for ever, and a device such as /dev/zero has no end; both are refused before they
    are opened.

    Args:
        path: the file.
        flag: the flag that names it, for the message.

    Raises:
        UserError: it is missing, or is no regular file.
    """
    name = f"{flag} {os.fspath(path)}" if flag else os.fspath(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{name}: {KINDS.get(stat.S_IFMT(status.st_mode), 'is no file')}; a regular file is needed")
    return status.st_size


def read_bytes(path: str | os.PathLike, flag: str = "", most: int | None = None) -> bytes:
    """A whole regular file.

    Args:
        most: how many bytes it may have.

    Raises:
        UserError: it cannot be read, is no regular file, or is larger than `most`.
    """
    name = f"{flag} {os.fspath(path)}" if flag else os.fspath(path)
    size = require_regular(path, flag)
    if most is not None and size > most:
        raise UserError(f"{name}: has {size:,} bytes; such a file has at most {most:,}")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror}") from None


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """A context that adds the file name `path` to an `OSError` without one, as raised by writing to an open file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
