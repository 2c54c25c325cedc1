"""CUDA MPS (Multi-Process Service): processes on one GPU run at the same time instead of in turns.

    with Mps.start(folder / "logs", say) as mps:
        subprocess.Popen(command, env={**os.environ, **mps.environment}, pass_fds=mps.pass_fds)

The daemon ends when this process and all processes that inherited `pass_fds` have ended, however they end: a child that
saves after this process was killed still needs it. A shell waits for that, at the other end of a pipe.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from uer.files import make_folder

CONTROL = "nvidia-cuda-mps-control"
PIPE_VARIABLE, LOG_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
QUERY = ["nvidia-smi", "--query-gpu=compute_mode", "--format=csv,noheader"]
PATIENCE_SECONDS = 30.0
# Waits until every other end of the pipe on its standard input is closed.
WAIT_AND_QUIT = f'cat > /dev/null; echo quit | {CONTROL}; rm -rf "${PIPE_VARIABLE}"'


def available() -> bool:
    """Whether MPS runs already, or is installed and the GPUs are shared (compute mode Default)."""
    if os.environ.get(PIPE_VARIABLE):
        return True
    if not shutil.which(CONTROL):
        return False
    try:
        found = subprocess.run(QUERY, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return set(found.stdout.split()) == {"Default"}


class Mps:
    """A running MPS daemon, or none.

    Attributes:
        environment: variables that its clients need.
        pass_fds: file descriptors that its clients inherit.
    """

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.pass_fds: tuple[int, ...] = ()
        self._watcher: subprocess.Popen | None = None

    @classmethod
    def start(cls, log_folder: Path, say: Callable[[str], None]) -> "Mps":
        """Start a daemon with a folder of its own for its pipes; where there is one in the environment, use that.

        Where it cannot be started, a line says so, and processes take turns.

        Args:
            log_folder: for the daemon's logs.
            say: prints a line.
        """
        mps = cls()
        if os.environ.get(PIPE_VARIABLE):
            return mps
        make_folder(log_folder)
        pipes = tempfile.mkdtemp(prefix="uer-mps-")  # a socket's path must be short
        # The daemon sees all GPUs: under a CUDA_VISIBLE_DEVICES of its own it would give them new numbers.
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        environment |= {PIPE_VARIABLE: pipes, LOG_VARIABLE: str(log_folder.absolute())}
        try:
            with open(log_folder / "start.log", "ab") as log:
                subprocess.run([CONTROL, "-d"], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                               timeout=PATIENCE_SECONDS, check=True, start_new_session=True)
        except (OSError, subprocess.SubprocessError) as error:
            say(f"CUDA MPS could not be started, so models on one GPU take turns: {error}; see {log_folder}")
            shutil.rmtree(pipes, ignore_errors=True)
            return mps
        mps.environment = {name: environment[name] for name in (PIPE_VARIABLE, LOG_VARIABLE)}
        mps._watch(environment)
        return mps

    def _watch(self, environment: dict[str, str]) -> None:
        reading, writing = os.pipe()
        self.pass_fds = (writing,)
        self._watcher = subprocess.Popen(["sh", "-c", WAIT_AND_QUIT], env=environment, stdin=reading,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(reading)

    def __enter__(self) -> "Mps":
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the daemon, once the children have ended."""
        for descriptor in self.pass_fds:
            os.close(descriptor)
        self.environment, self.pass_fds = {}, ()
        if self._watcher is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._watcher.wait(PATIENCE_SECONDS)
            self._watcher = None
