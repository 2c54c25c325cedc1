"""The offsets at which instances begin in a column, stored in two bytes each instead of eight.

Offsets grow with the corpus and need int64, but an instance has at most a few hundred tokens. So every 2^shift-th
offset is stored as int64 (block_starts), and each offset as its distance from the last of these, in uint16 (starts):

    offset of instance i = block_starts[i >> shift] + starts[i]

With shift 2, a block has 4 instances:

    offsets        0  10  30  35  |  50  60  75  90  |  99
    block_starts   0                 50                 99
    starts         0  10  30  35      0  10  25  40      0

With 100 tokens an instance int64 offsets would be 4% of a dataset; these are 1%.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

LARGEST_START = (1 << 16) - 1


def block_shift(longest: int) -> int:
    """The largest shift with which all starts fit into uint16, for instances of at most `longest` tokens.

    >>> [block_shift(longest) for longest in (128, 512, 70000)]
    [9, 7, 0]
    """
    return (LARGEST_START // longest + 1).bit_length() - 1


@dataclass(frozen=True)
class Offsets:
    """Packed offsets, which are indexed like the int64 array of all offsets; only what is indexed is unpacked.

    >>> offsets = Offsets(np.array([0, 50, 99]), np.array([0, 10, 30, 35, 0, 10, 25, 40, 0], np.uint16), shift=2)
    >>> offsets[6], offsets[3:6].tolist(), offsets[np.array([8, 1])].tolist()
    (75, [35, 50, 60], [99, 10])
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
    """Pack a stream of offsets.

    >>> blocks = []
    >>> [starts.tolist() for starts in pack([np.array([0, 10, 30]), np.array([35, 50, 60])], 2, blocks)]
    [[0, 10, 30], [35, 0, 10]]
    >>> np.concatenate(blocks).tolist()
    [0, 50]

    Args:
        pieces: the offsets in order, cut into int64 arrays of any length.
        shift: of `block_shift`.
        block_starts: a list to which the block starts of each piece are appended.

    Yields:
        the starts of each piece, uint16.
    """
    index, base = 0, np.zeros(1, np.int64)  # the first instance of the piece; the block start before it, (1,)
    for piece in pieces:
        numbers = np.arange(index, index + len(piece))  # of the instances
        firsts = piece[numbers % (1 << shift) == 0]
        block_starts.append(firsts)
        bases = np.concatenate([base, firsts])
        # How many blocks have begun since the instance before the piece: 0 is `base`, n the n-th of `firsts`.
        starts = piece - bases[(numbers >> shift) - ((index - 1) >> shift)]
        assert starts.size == 0 or 0 <= starts.min() <= starts.max() <= LARGEST_START, "an instance is too long"
        yield starts.astype(np.uint16)
        index, base = index + len(piece), bases[-1:]
