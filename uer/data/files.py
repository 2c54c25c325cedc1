"""Writing a file so that its final name only ever holds a whole one."""

import os
from collections.abc import Iterator
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
        UserError: the folder of `final` does not exist, or `final` is a folder.
    """
    final = Path(final)
    if not final.parent.is_dir():
        raise UserError(f"{final}: the folder {final.parent} does not exist")
    if final.is_dir():
        raise UserError(f"{final}: is a folder; a file name is needed")
    temporary = final.with_name(final.name + ".tmp")
    try:
        yield temporary
        flush_to_disk(temporary)
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_to_disk(final.parent)


def flush_to_disk(path: str | os.PathLike) -> None:
    """Return when what was written to this file, or renamed in this folder, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
