"""Decoders by their `--decoder` names. None is built yet: encoders come first."""

DECODERS: dict[str, type] = {}
PLANNED = ("transformer",)

__all__ = ["DECODERS", "PLANNED"]
