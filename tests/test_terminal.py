"""What is shown on terminals of all kinds."""

import fcntl
import os
import struct
import termios

import pytest

from uer.terminal import progress_bar


@pytest.mark.parametrize("rows, columns, shown", [(24, 60, 60), (0, 0, 80)])
def test_a_progress_bar_is_as_wide_as_the_terminal(rows, columns, shown):
    """One that says 0 x 0, as some containers' do, has a bar of 80 columns."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with os.fdopen(theirs, "w") as stream, progress_bar(stream, total=4, unit=" steps", mininterval=0) as bar:
        bar.update(3)
        line = os.read(ours, 1000).decode().split("\r")[-1]
    os.close(ours)
    assert ("3/4" in line and len(line) == shown - 1) or len(line) == shown
