"""Choosing a class by its name on the command line."""

from collections.abc import Mapping
from typing import TypeVar

from uer.errors import UserError

T = TypeVar("T")


def choose(table: Mapping[str, T], name: str, flag: str) -> T:
    """Return `table[name]`.

    Args:
        table: the literal table of a family, such as `ENCODERS`.
        name: what the user asked for.
        flag: how the user asks for it, such as `--encoder`; it opens the message.

    Raises:
        UserError: the name is not in the table; the message lists the valid ones.
    """
    if name in table:
        return table[name]
    choices = f"; choose from: {', '.join(table)}" if table else ""
    raise UserError(f"{flag}: '{name}' is unknown{choices}")
