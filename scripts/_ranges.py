"""Ranges of the benchmarks' flags. Not a command."""

from typing import Any


def outside(config: Any, **ranges: tuple[float, float]) -> list[str]:
    """A line for each flag with a value outside its range: `outside(config, rounds=(1, 1000))`.

    Each of several values is looked at; a flag without a value is passed over.
    """
    found = []
    for name, (least, most) in ranges.items():
        values = getattr(config, name)
        values = values if isinstance(values, tuple) else (values,)
        if any(value is not None and not least <= value <= most for value in values):
            found.append(f"--{name} must lie between {least} and {most}")
    return found
