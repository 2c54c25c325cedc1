"""Choosing a class by its name on the command line."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from uer.errors import UserError

T = TypeVar("T")


def choose(table: Mapping[str, T], name: str, flag: str, planned: Sequence[str] = ()) -> T:
    """Return `table[name]`.

    Args:
        table: the literal table of a family, such as `ENCODERS`.
        name: what the user asked for.
        flag: how the user asks for it, such as `--encoder`; it opens the message.
        planned: names that UER-py knows and this toolkit does not build yet.

    Raises:
        UserError: the name is not in the table; the message lists the valid ones.
    """
    if name in table:
        return table[name]
    reason = "is not built yet" if name in planned else "is unknown"
    choices = f"; choose from: {', '.join(table)}" if table else ""
    raise UserError(f"{flag}: '{name}' {reason}{choices}")
