"""The lock of an output path, which stands in `uer.lock`."""

from uer.lock import OutputLock

__all__ = ["OutputLock"]
