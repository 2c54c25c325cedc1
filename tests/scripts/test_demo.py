"""Where the demonstration puts its files. Its commands have tests of their own, and here do nothing."""

import os
import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize("absolute", [False, True])
def test_a_folder_is_that_of_the_caller(root: Path, tmp_path: Path, absolute: bool) -> None:
    python = tmp_path / "env/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho '{tmp_path / 'env'}'\n")  # setup_env.sh asks for sys.prefix
    python.chmod(0o755)
    folder = tmp_path / "my demo" if absolute else Path("my demo")
    subprocess.run(["bash", str(root / "scripts/demo.sh"), str(folder)], cwd=tmp_path, check=True, capture_output=True,
                   env={**os.environ, "VIRTUAL_ENV": str(tmp_path / "env")})
    assert (tmp_path / "my demo/scoreboard.json").is_file() and not (root / "my demo").exists()
