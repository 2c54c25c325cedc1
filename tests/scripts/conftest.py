"""Running a script of scripts/ inside the test's process: imports are paid once."""

import contextlib
import io
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_main(patch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    """Call the `main` of a script."""
    patch.syspath_prepend(str(ROOT / "scripts"))
    patch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "scripts" / name), run_name="script")["main"]()


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """`run_script("x.py", "--flag", value)` -> standard output; what `main` raises comes out as it is."""
    def run(name: str, *arguments: object) -> str:
        capsys.readouterr()
        run_main(monkeypatch, name, *arguments)
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def run_once() -> Callable[..., str]:
    """`run_script` for what all tests of a file look at: `run_once(folder, "x.py", ...)` runs in a folder."""
    def run(folder: Path, name: str, *arguments: object) -> str:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
            patch.chdir(folder)
            run_main(patch, name, *arguments)
        return printed.getvalue()

    return run
