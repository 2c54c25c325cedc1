"""What the settings of `uer.config` are made of: fields that are flags, sections with members, and limits of values."""

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, ClassVar


def flag(default: Any, help: str, *, choices: tuple[str, ...] = (), family: str = "", positional: bool = False,
         path: str = "", identity: bool = True, file_only: bool = False, alone: str | None = None) -> Any:
    """A dataclass field that is also a command-line flag.

    Args:
        default: the value when neither the command line nor a JSON file gives one; `REQUIRED` makes the flag mandatory.
        help: the help text.
        choices: the valid values, where they are a plain list.
        family: where the valid values are the keys of a family's table, its name in `uer.sections.FAMILIES`.
        positional: the values may also be given without the flag (one field of a command; a tuple).
        path: what the command does with the path that the flag names, one of `PATHS`; "" where it names no path.
        identity: whether the result of a run depends on it, so that a training state continues only a run with the
            same value.
        file_only: a key of the config file without a flag. Its value may be a dictionary, so a hash leaves it out.
        alone: the value of the flag where none follows it.
    """
    assert path in ("", *PATHS)
    return field(default=default, hash=False if file_only else None, metadata={
        "help": help, "choices": choices, "family": family, "positional": positional, "path": path,
        "identity": identity, "file_only": file_only, "alone": alone})


class Members:
    """A section whose chosen members (an encoder, a target, a processor) have settings of their own.

    A member's class declares them as `config_class`, a dataclass of `flag` fields. They are flags and keys like all
    others; the section keeps their values in its field `members`, which `members_of` makes. `member_defaults` are
    defaults that differ from those of the fields.
    """

    member_defaults: ClassVar[Mapping[str, Any]] = {}

    def of(self, config_class: type) -> Any:
        """The settings of one member: its `config_class`, filled with what was given."""
        if config_class is type(None):
            return None
        names = {known.name for known in fields(config_class)}
        return config_class(**{name: value for name, value in self.members.items() if name in names})

    def values(self) -> dict[str, Any]:
        """All settings in one dictionary, as a JSON config file has them."""
        own = {known.name: getattr(self, known.name) for known in fields(self) if "help" in known.metadata}
        return {**own, **self.members}


def members_of(*families: str) -> Any:
    """The field `members` of a section: which families of `uer.sections.FAMILIES` its members are chosen from."""
    return field(default_factory=dict, hash=False, metadata={"families": families})


REQUIRED = object()
# What a command does with a path: reads the file or folder; writes a file, or appends to it; writes a folder, a model
# (a file, or files in a folder), or files whose names begin with it; or it is a name in folders that another flag has.
# `uer.cli` lets nothing be written that is read.
PATHS = ("read", "write", "append", "write_folder", "write_model", "write_prefix", "name")


# Larger sizes are typing errors: the largest dense models have 126 layers, widths of 53,248 and rows of a million
# tokens, and the largest batches have 65,536 rows. Whether a model fits this machine is checked when it is built.
MOST_LAYERS = 10_000
LARGEST_WIDTH = 1 << 20
LONGEST_ROW = 1 << 22
MOST_ROWS = 1 << 20
MOST_THREADS = 1 << 12
LARGEST_SEED = (1 << 63) - 1  # the largest int64: the order and the masks are computed in int64


def require(problems: list[str], holds: bool, message: str) -> None:
    """Add a message to the problems of a section unless the condition holds."""
    if not holds:
        problems.append(message)


def require_seed(problems: list[str], seed: int) -> None:
    require(problems, 0 <= seed <= LARGEST_SEED, "--seed must lie between 0 and 2^63 - 1")
