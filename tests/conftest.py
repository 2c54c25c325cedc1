"""Fixtures for the data that stands beside the project where it is developed; tests skip where it is absent."""

import os
import sys
from pathlib import Path

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
