"""Cheap random masks on a CPU.

torch draws one Bernoulli number at a time, which costs more than the matrix products around it (10 ms a million on one
core). Here one number from torch's generator seeds a fast generator of whole blocks of bits (SFC64, whose stream numpy
promises to keep), and 16 bits decide one element: 0.7 ms a million. A saved and restored state of torch's generator
therefore brings back the same masks. Threads that compute parts of a batch have a generator each (`masks_from`).
"""

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

BITS = 16


class _Source(threading.local):
    """Each thread's own generator; None is torch's default one, which all threads share."""

    generator: torch.Generator | None = None


_SOURCE = _Source()


@contextlib.contextmanager
def masks_from(seed: int) -> Iterator[None]:
    """A context in which this thread's masks are a function of `seed`, whatever other threads draw."""
    before, _SOURCE.generator = _SOURCE.generator, torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _SOURCE.generator = before


def uniform(count: int, device: torch.device) -> Tensor:
    """(count,) random numbers in [0, 1): on a CPU from the generator of this thread's masks."""
    return torch.rand(count, device=device, generator=_SOURCE.generator if device.type == "cpu" else None)


class KeepMasks:
    """A stream of masks in which an element is 1 with probability 1 - `drop` (to within 2**-17) and else 0."""

    def __init__(self, drop: float) -> None:
        """Draws one number from torch's CPU generator, or from this thread's own one."""
        level = min(max(round(drop * 2**BITS), 0), 2**BITS - 1)
        self.threshold = level - 2 ** (BITS - 1)
        self.scale = 1.0 / (1.0 - level / 2**BITS)  # what kept elements are multiplied by
        self.generator = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_(
            generator=_SOURCE.generator)))

    def draw(self, shape: Sequence[int]) -> Tensor:
        """-> int8 tensor of 0 and 1. Multiplying floats by int8 is fast in torch's CPU kernels; by bool it is not."""
        count = math.prod(shape)
        words = self.generator.random_raw(-(-count * BITS // 64))
        bits = torch.from_numpy(words.view(np.int16))[:count].view(*shape)
        return torch.ge(bits, self.threshold, out=torch.empty(*shape, dtype=torch.int8))
