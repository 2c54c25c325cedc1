"""An output is never an input: every command, every pair of a path that it reads and a path that it writes."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.tools.scripts import ROOT, flags_of, sections_of
from uer import cli
from uer.config import PATHS, REQUIRED
from uer.errors import UserError

SCRIPTS = sorted(str(path.relative_to(ROOT))
                 for pattern in ("pre*.py", "finetune/*.py", "inference/*.py", "scripts/[!_]*.py")
                 for path in ROOT.glob(pattern))
# Values that settings need before the paths are looked at.
NEEDED = {"extend_vocab.py": ["--add_tokens", "x"], "cloze_test.py": ["--text", "x[MASK]"]}


PARSERS: dict[tuple[type, ...], Any] = {}


@pytest.fixture(autouse=True)
def _one_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script's parser is made once for all command lines of all tests here."""
    make = cli._parser

    def parser(description: str, sections: list[type], *rest: Any) -> Any:
        key = tuple(sections)
        if key not in PARSERS:
            PARSERS[key] = make(description, sections, *rest)
        return PARSERS[key]

    monkeypatch.setattr(cli, "_parser", parser)


def path_fields(sections: tuple[type, ...], *kinds: str) -> list[dataclasses.Field]:
    return [field for field in flags_of(sections) if field.metadata["path"] in kinds]


def command_line(script: str, sections: tuple[type, ...], paths: dict[str, Path], folder: Path) -> list[str]:
    """A command line with these paths, and with a file of its own for every other flag that is required."""
    argv = list(NEEDED.get(Path(script).name, ()))
    for field in flags_of(sections):
        if field.name in paths:
            argv += [f"--{field.name}", str(paths[field.name])]
        elif field.default is REQUIRED:
            argv += [f"--{field.name}", str(folder / f"other_{field.name}")]
    return argv


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_path_flag_says_what_is_done_with_it(script: str) -> None:
    forgotten = [field.name for field in flags_of(sections_of(script))
                 if field.name.endswith(("_path", "_dir", "_dict", "_file", "_path_list"))
                 and field.metadata["path"] not in PATHS]
    assert not forgotten


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_output_may_be_an_input(script: str, tmp_path: Path) -> None:
    """The same file, for each pair of flags, and a second link to it, for each flag: refused before anything runs, and
    untouched."""
    sections = sections_of(script)
    content = "{}\n"
    inputs, outputs = path_fields(sections, "read"), path_fields(sections, "write", "append", "write_model")
    for read in inputs:
        for written in outputs:
            file = tmp_path / "file.json"
            file.write_text(content)
            link = tmp_path / "link.json"
            link.unlink(missing_ok=True)
            link.hardlink_to(file)
            for output in (file, link) if read is inputs[0] or written is outputs[0] else (file,):
                argv = command_line(script, sections, {read.name: file, written.name: output}, tmp_path)
                with pytest.raises(UserError) as caught:
                    cli.parse("", sections, argv)
                assert f"--{written.name}" in str(caught.value) and "would be overwritten" in str(caught.value)
            assert file.read_text() == content


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_two_outputs_are_one_file(script: str, tmp_path: Path) -> None:
    sections = sections_of(script)
    outputs = path_fields(sections, "write", "append", "write_model")
    for number, one in enumerate(outputs):
        for other in outputs[number + 1:]:
            both = {one.name: tmp_path / "x.json", other.name: tmp_path / "sub" / ".." / "x.json"}
            argv = command_line(script, sections, both, tmp_path)
            with pytest.raises(UserError, match="name the same file"):
                cli.parse("", sections, argv)


@pytest.mark.parametrize("script", SCRIPTS)
def test_outputs_are_regular_files(script: str, tmp_path: Path) -> None:
    sections = sections_of(script)
    for written in path_fields(sections, "write", "write_model"):
        with pytest.raises(UserError, match="regular file"):
            cli.parse("", sections, command_line(script, sections, {written.name: Path("/dev/null")}, tmp_path))
