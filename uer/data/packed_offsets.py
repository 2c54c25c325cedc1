"""Where instances begin, in two bytes each.

Offsets grow with the corpus and need int64, yet an instance has at most a few hundred tokens: so every 2^shift-th
offset is kept whole, and the others as their distance from it, which fits into uint16.

    offset of instance i = block_starts[i >> shift] + starts[i]

With 100 tokens an instance int64 offsets would be 4% of a dataset, these are 1%.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

LARGEST_START = (1 << 16) - 1


def block_shift(longest: int) -> int:
    """The largest shift for which instances of `longest` tokens stay within uint16: 128 -> 9, 512 -> 7, 70000 -> 0."""
    return (LARGEST_START // longest + 1).bit_length() - 1


@dataclass(frozen=True)
class Offsets:
    """Packed offsets; indexed like the int64 array they stand for, without unpacking more than is asked for.

    `offsets[7]` is an int, `offsets[3:9]` and `offsets[np.array([5, 2])]` are int64 arrays.
    """

    block_starts: np.ndarray
    """(instances // 2^shift + 1,) int64"""
    starts: np.ndarray
    """(instances + 1,) uint16"""
    shift: int

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def nbytes(self) -> int:
        """Bytes of the two columns."""
        return self.block_starts.nbytes + self.starts.nbytes

    def __getitem__(self, key: int | slice | np.ndarray) -> np.ndarray | int:
        if isinstance(key, slice):
            key = np.arange(*key.indices(len(self)))
        elif isinstance(key, (int, np.integer)):
            key = range(len(self))[key]
            return int(self.block_starts[key >> self.shift]) + int(self.starts[key])
        return self.block_starts[key >> self.shift] + self.starts[key]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.int64, copy=False)


def pack(pieces: Iterable[np.ndarray], shift: int, block_starts: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Pack a stream of int64 offsets: yields their uint16 starts, and leaves the block starts in `block_starts`."""
    index, base = 0, np.zeros(1, np.int64)
    for piece in pieces:
        places = np.arange(index, index + len(piece))
        firsts = piece[places % (1 << shift) == 0]
        block_starts.append(firsts)
        bases = np.concatenate([base, firsts])
        starts = piece - bases[(places >> shift) - ((index - 1) >> shift)]
        assert starts.size == 0 or 0 <= starts.min() <= starts.max() <= LARGEST_START, "an instance is too long"
        yield starts.astype(np.uint16)
        index, base = index + len(piece), bases[-1:]
