"""Busy processes beside a measurement, as on a machine that people share."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

BUSY = "import sys; print('busy', flush=True)\nwhile True: pass"


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """A context in which `count` other processes compute without a pause, each with one thread."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in processes:
            process.stdout.readline()  # it has begun
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()
