"""Fixtures for the data that stands beside the project where it is developed; tests skip where it is absent."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))
if "PYTEST_XDIST_WORKER" in os.environ:  # for torch, which is imported later: threads of two processes hinder another
    os.environ.setdefault("OMP_NUM_THREADS", "1")


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


class Server:
    """`training/fork_server.py`: forks a process that has imported torch, for each run of pretrain.py."""

    def __init__(self, folder: Path) -> None:
        program = ROOT / "tests" / "training" / "fork_server.py"
        self.process = subprocess.Popen([sys.executable, str(program)], cwd=folder, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def ask(self, request: dict) -> Any:
        """Send a request and wait for its answer."""
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One fork server for all tests of a process."""
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.process.stdin.close()
    running.process.wait(60)
