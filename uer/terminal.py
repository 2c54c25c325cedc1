"""Standard output and error as they are found: terminals of any encoding, pipes whose reader has left."""

import contextlib
import os
import sys
from typing import Any, TextIO

BROKEN_PIPE_STATUS = 141
"""The exit status where the reader of standard output has ended (`| head`), as a shell reports SIGPIPE."""


def tolerate_encodings() -> None:
    """Print what the terminal's encoding lacks as an escape (`\\u4e2d`) instead of failing at it.

    A GBK terminal or the C locale has no room for every character of a text or a file name.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def output_error() -> OSError | None:
    """Why standard output cannot be written to, as where its disk is full or its reader has left; None where it can.

    What could not be written is given up, so that the interpreter does not complain of it at its end.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            sys.stdout.flush()
        return error
    return None


def progress_bar(stream: TextIO | None = None, **settings: Any) -> Any:
    """A tqdm bar on a terminal, standard error by default, that disappears at its end.

    It follows the terminal's width. On a terminal that says 0 columns, where tqdm shows nothing, it has 80.
    """
    from tqdm import tqdm  # a tenth of a short run's time, for nothing where there is no terminal

    stream = stream or sys.stderr
    columns, rows = os.get_terminal_size(stream.fileno())
    size = {"dynamic_ncols": True} if columns and rows else {"ncols": 80, "nrows": 24}
    return tqdm(file=stream, leave=False, **size, **settings)


def printable(text: str) -> str:
    """`text` with what no encoding can write, such as the bytes of a file name that is not UTF-8, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
