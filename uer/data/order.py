"""The order of an epoch: a keyed permutation, computed for any index in constant time and memory.

    instance = permute(i, length, seed, epoch)

For every seed and epoch, i = 0 ... length - 1 gives every instance once. Nothing is shuffled in memory, so resuming
costs the same anywhere, and no rank needs to know what another one drew.
"""

from torch import Tensor

from uer.data.hashing import grid_width, hash_words, shuffled


def permute(index: Tensor, length: int, seed: int, epoch: int | Tensor) -> Tensor:
    """The instances that come at `index` in an epoch.

    >>> permute(torch.arange(6), 6, seed=7, epoch=0).tolist(), permute(torch.arange(6), 6, seed=7, epoch=1).tolist()
    ([0, 1, 3, 2, 4, 5], [3, 4, 5, 1, 2, 0])

    Args:
        index: int64 of any shape, from 0 to `length` - 1.
        length: instances of an epoch, from 1 to 2^62.
        seed: 0 or more.
        epoch: 0 or more; or int64 of `index`'s shape, where each element has its own epoch.

    Returns:
        int64 of `index`'s shape, from 0 to `length` - 1.
    """
    return shuffled(index, length, grid_width(length), hash_words(seed, epoch))
