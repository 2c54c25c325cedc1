"""What is shown on terminals of all kinds."""

import fcntl
import os
import struct
import termios

import pytest

from uer.terminal import progress_bar


@pytest.mark.parametrize("rows, columns, shown", [(24, 60, 59), (0, 0, 80)])
def test_a_progress_bar_is_as_wide_as_the_terminal(rows, columns, shown):
    """The last column stays free. One that says 0 x 0, as some containers' do, has a bar of 80 columns."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    printed = ""
    with os.fdopen(theirs, "w") as stream, progress_bar(stream, total=4, unit=" steps", mininterval=0) as bar:
        bar.update(3)
        while "3/4" not in printed or not printed.endswith("]"):
            printed += os.read(ours, 1000).decode()
    os.close(ours)
    assert len(printed.split("\r")[-1]) == shown
