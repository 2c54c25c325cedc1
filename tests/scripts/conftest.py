"""Running a script of scripts/ inside the test's process: imports are paid once."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """`run_script("x.py", "--flag", value)` -> standard output; what `main` raises comes out as it is."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        main = runpy.run_path(str(ROOT / "scripts" / name), run_name="script")["main"]
        main()
        return capsys.readouterr().out

    return run
