"""What the command line of each script is made of, found by running the script as far as its `cli.parse`."""

import dataclasses
import runpy
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from uer import cli
from uer.sections import member_classes

ROOT = Path(__file__).resolve().parents[2]


class _Sections(Exception):
    """Carries what a script gives to `cli.parse`."""


@cache
def sections_of(script: str) -> tuple[type, ...]:
    """The config classes of a script's command line."""
    def stop(description: str, sections: tuple[type, ...], argv: object = None) -> None:
        raise _Sections(sections)

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        patch.setattr(cli, "parse", stop)
        patch.setattr(sys, "argv", [script])
        with pytest.raises(_Sections) as caught:
            runpy.run_path(str(ROOT / script), run_name="script")["main"]()
    return caught.value.args[0]


def flags_of(sections: Iterable[type]) -> list[dataclasses.Field]:
    """The fields that are flags, those of members among them, each once."""
    found = {field.name: field for section in sections for part in (section, *member_classes(section))
             for field in dataclasses.fields(part) if "help" in field.metadata}
    return list(found.values())
