"""Fixtures for the data that stands beside the project where it is developed; tests skip where it is absent."""

import gc
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))
sys.path.append(str(ROOT / "tests" / "stand_ins"))  # behind the installed packages, for those that are missing
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of the many processes would compile all modules again
sys.dont_write_bytecode = False
os.fsync = lambda file: None  # no test cuts the power
if "PYTEST_XDIST_WORKER" in os.environ:  # for torch, which is imported later: threads of two processes hinder another
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    gc.disable()  # until all is imported, which else takes a fifth longer


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name}: real data is not at hand")
    return path


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real corpora and tasks."""
    return _existing(SHARED / "data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with figures from the original toolkit."""
    return _existing(SHARED / "golden")


@pytest.fixture(scope="session")
def google_vocab(shared_data: Path) -> Path:
    """The 21,128-entry Chinese vocabulary."""
    return _existing(shared_data / "vocab" / "google_zh_vocab.txt")


def pytest_collection_finish() -> None:
    """The garbage collector leaves alone what was imported so far: collecting it takes 0.3 s each time."""
    gc.collect()
    gc.freeze()
    gc.enable()


class Server:
    """`training/fork_server.py`: forks a process that has imported torch, for each run of pretrain.py.

    The first process of a test run that needs it starts it; the others connect to the same one.
    """

    def __init__(self, folder: Path) -> None:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
        address, owner = f"\0{run or uuid.uuid4()}", os.getppid() if run else os.getpid()
        with socket.socket(socket.AF_UNIX) as listener:
            if _binds(listener, address):
                listener.listen()
                program = [str(ROOT / "tests" / "training" / "fork_server.py"), str(listener.fileno()), str(owner)]
                subprocess.Popen([sys.executable, *program], cwd=folder, pass_fds=[listener.fileno()],
                                 env={**os.environ, "OMP_NUM_THREADS": "1"})
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address)
            self.stream = connection.makefile("rw", encoding="utf-8")

    def ask(self, request: dict) -> Any:
        """Send a request and wait for its answer."""
        print(json.dumps(request), file=self.stream, flush=True)
        return json.loads(self.stream.readline())


def _binds(listener: socket.socket, address: str) -> bool:
    """Give the socket its address, which one process can do."""
    try:
        listener.bind(address)
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The fork server, for all tests of a process."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stream.close()


SCRIPT = """
import os, runpy, sys
for number, path in enumerate({outputs!r}, start=1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
os.chdir({folder!r})
sys.argv = {argv!r}
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="session")
def run_forked(server, tmp_path_factory) -> Callable[..., subprocess.CompletedProcess]:
    """`run_forked("scripts/x.py", "--flag", value)` runs a script as a user does, in a process of its own that need not
    import torch again, and in the repository's root or `cwd`; the result has returncode, stdout and stderr."""
    def run(script: str, *words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        folder = tmp_path_factory.mktemp("forked")
        outputs = [str(folder / name) for name in ("stdout", "stderr")]
        argv = [str(ROOT / script), *map(str, words)]
        pid = server.ask({"program": SCRIPT.format(outputs=outputs, folder=str(cwd), argv=argv),
                          "log": str(folder / "log")})
        status = server.ask({"wait": pid, "seconds": 240})
        return subprocess.CompletedProcess(argv, status, *(Path(path).read_text(encoding="utf-8") for path in outputs))

    return run


# Files that take long come first, so that the two processes of tests/run.sh end together; the second of them needs no
# fork server, which is starting then.
LONGEST_FIRST = ("test_pretrain.py", "test_processors.py", "test_resume.py", "test_runs.py", "test_parallel_runs.py",
                 "test_meshes.py", "test_model.py", "test_model_with_decoder.py", "test_distilled_runs.py",
                 "test_benchmark_training.py", "test_pretrain_family.py", "test_tokenizers.py", "test_tasks.py",
                 "test_classifier.py", "test_preflight.py", "test_configs.py", "test_threads.py", "test_decay.py",
                 "test_check_gpu.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of `LONGEST_FIRST` in front; all other files stay in their order."""
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
