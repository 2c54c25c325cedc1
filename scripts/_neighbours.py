"""Processes that keep a CPU core busy each, to measure how a command does beside them. Not a command."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

# Says that it has begun; ends by itself when the process that started it is gone.
BUSY = "import os\nprint(flush=True)\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(10000))"


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[list[subprocess.Popen]]:
    """A context in which `count` processes of one thread compute without a pause."""
    started = []
    try:
        for _ in range(count):
            started.append(subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE))
        for process in started:
            process.stdout.readline()
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()
