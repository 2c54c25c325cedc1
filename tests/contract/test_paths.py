"""An output is never an input: every command, every pair of a path that it reads and a path that it writes.

The commands and their flags are found by running each entry script as far as its `cli.parse`.
"""

import dataclasses
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from uer import cli
from uer.config import PATHS, REQUIRED
from uer.errors import UserError
from uer.sections import member_classes

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(str(path.relative_to(ROOT))
                 for pattern in ("pre*.py", "finetune/*.py", "inference/*.py", "scripts/[!_]*.py")
                 for path in ROOT.glob(pattern))
# Values that settings need before the paths are looked at.
NEEDED = {"extend_vocab.py": ["--add_tokens", "x"], "cloze_test.py": ["--text", "x[MASK]"]}


class _Sections(Exception):
    """Carries what a script gives to `cli.parse`."""


KNOWN_SECTIONS: dict[str, tuple[type, ...]] = {}


def sections_of(script: str, monkeypatch: pytest.MonkeyPatch) -> tuple[type, ...]:
    """The config classes of a script's command line; each script is run once."""
    if script in KNOWN_SECTIONS:
        return KNOWN_SECTIONS[script]

    def stop(description: str, sections: tuple[type, ...], argv: object = None) -> None:
        raise _Sections(sections)

    main = runpy.run_path(str(ROOT / script), run_name="script")["main"]
    monkeypatch.setattr(cli, "parse", stop)
    monkeypatch.setattr(sys, "argv", [script])
    try:
        with pytest.raises(_Sections) as caught:
            main()
    finally:
        monkeypatch.undo()
    KNOWN_SECTIONS[script] = caught.value.args[0]
    return KNOWN_SECTIONS[script]


@pytest.fixture(autouse=True)
def _scripts_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.fixture(autouse=True)
def _one_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script's parser is made once for all command lines of a test."""
    parsers, make = {}, cli._parser

    def parser(description: str, sections: list[type], *rest: Any) -> Any:
        key = tuple(sections)
        if key not in parsers:
            parsers[key] = make(description, sections, *rest)
        return parsers[key]

    monkeypatch.setattr(cli, "_parser", parser)


def flags_of(sections: tuple[type, ...]) -> list[dataclasses.Field]:
    """The fields that are flags, those of members among them, each once."""
    found = {field.name: field for section in sections for part in (section, *member_classes(section))
             for field in dataclasses.fields(part) if "help" in field.metadata}
    return list(found.values())


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
def test_every_path_flag_says_what_is_done_with_it(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten = [field.name for field in flags_of(sections_of(script, monkeypatch))
                 if field.name.endswith(("_path", "_dir", "_dict", "_file", "_path_list"))
                 and field.metadata["path"] not in PATHS]
    assert not forgotten


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_output_may_be_an_input(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same file, for each pair of flags, and a second link to it, for each flag: refused before anything runs, and
    untouched."""
    sections = sections_of(script, monkeypatch)
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
def test_no_two_outputs_are_one_file(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sections = sections_of(script, monkeypatch)
    outputs = path_fields(sections, "write", "append", "write_model")
    for number, one in enumerate(outputs):
        for other in outputs[number + 1:]:
            both = {one.name: tmp_path / "x.json", other.name: tmp_path / "sub" / ".." / "x.json"}
            argv = command_line(script, sections, both, tmp_path)
            with pytest.raises(UserError, match="name the same file"):
                cli.parse("", sections, argv)


@pytest.mark.parametrize("script", SCRIPTS)
def test_outputs_are_regular_files(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sections = sections_of(script, monkeypatch)
    for written in path_fields(sections, "write", "write_model"):
        with pytest.raises(UserError, match="regular file"):
            cli.parse("", sections, command_line(script, sections, {written.name: Path("/dev/null")}, tmp_path))
