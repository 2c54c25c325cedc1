"""The order of an epoch: a keyed permutation, computed for any place in constant time and memory.

    instance = permute(i, length, seed, epoch)

For every seed and epoch, i = 0 ... length - 1 gives every instance once. Nothing is shuffled in memory, so resuming
costs the same anywhere, and no rank needs to know what another one drew.
"""

from torch import Tensor

from uer.data.hashing import grid_width, hash_words, shuffled


def permute(index: Tensor, length: int, seed: int, epoch: int | Tensor) -> Tensor:
    """The instance at place `index` of an epoch.

    Args:
        index: int64, from 0 to `length` - 1, of any shape.
        length: instances of an epoch, from 1 to 2^62.
        seed: 0 or more.
        epoch: 0 or more; a tensor of `index`'s shape where places of several epochs are asked for together.
    """
    return shuffled(index, length, grid_width(length), hash_words(seed, epoch))
