"""Random numbers as functions of integers: hashes and shuffles that give the same bits on the CPU and on a GPU.

Every value is an int64 between 0 and 2^32 - 1. No product exceeds 63 bits and nothing is rounded, so all devices
compute the same.

>>> hash_words(7, 0, torch.tensor([3, 4])).tolist()
[973310960, 598708202]
>>> shuffled(torch.arange(5), 5, 3, key=99).tolist()
[2, 4, 0, 3, 1]
"""

import math

import torch
from torch import Tensor

from uer.data.draws import GOLDEN, MASK, absorbed

ROUNDS = 4


def mix_(value: Tensor) -> Tensor:
    """`uer.data.draws.mix` of a tensor of any shape, in place, which takes two thirds of the time."""
    shifted = value >> 16
    value.bitwise_xor_(shifted).mul_(0x21F0AAAD).bitwise_and_(MASK)
    torch.bitwise_right_shift(value, 15, out=shifted)
    value.bitwise_xor_(shifted).mul_(0xD35A2D97 - (1 << 32)).bitwise_and_(MASK)
    torch.bitwise_right_shift(value, 15, out=shifted)
    return value.bitwise_xor_(shifted)


def hash_words(*words: int | Tensor) -> int | Tensor:
    """One 32-bit hash of several integers from 0 to 2^63 - 1.

    Tensors are broadcast against one another: with shapes (3, 1) and (4,) the hashes are (3, 4). Integers alone give an
    integer.
    """
    state: int | Tensor = GOLDEN
    for word in words:
        whole = isinstance(state, int) and isinstance(word, int)
        state = absorbed(state, word) if whole else mix_((word ^ word >> 32) & MASK ^ state)
    return state


def below(hashed: Tensor, limit: int | Tensor) -> Tensor:
    """32-bit hashes as numbers from 0 to `limit` - 1, of the same shape.

    This is floor(hash / 2^32 * limit). The numbers are equally likely up to a relative error of limit / 2^32.

    >>> below(torch.tensor([0, 1 << 31, (1 << 32) - 1]), 10).tolist()
    [0, 5, 9]

    Args:
        limit: at most 2^31; an integer, or a tensor that broadcasts with `hashed`.
    """
    return hashed * limit >> 32


def grid_width(length: int) -> int:
    """The number of columns of the grid in which `shuffled` arranges `length` numbers: the square root, rounded up."""
    return math.isqrt(length - 1) + 1 if length else 1


def shuffled(index: Tensor, length: int | Tensor, width: int | Tensor, key: int | Tensor) -> Tensor:
    """The new index of each number of [0, length) in a shuffle that `key` determines: a bijection, in constant time.

    The numbers are arranged in a grid of `width` columns, row by row, whose last row may be short. Each round rotates
    every row by a hash of the row's number, then every column by a hash of the column's number. A rotation is a
    bijection of a row or column of any length, so no number leaves the grid.

        length 8, width 3           rotate row 0 by 1, row 1 by 0,      rotate column 0 by 1,
                                    row 2 (2 numbers) by 1              column 1 by 0, column 2 (2 numbers) by 1
        0 1 2                       2 0 1                               7 0 5
        3 4 5                  ->   3 4 5                          ->   2 4 1
        6 7                         7 6                                 3 6

        After this round the number 2 has the index 3, and the number 7 has the index 0.

    Args:
        index: int64 of any shape, numbers from 0 to length - 1.
        length, width, key: integers, or tensors that broadcast with `index`: each element may have its own shuffle.

    Returns:
        int64 of `index`'s shape, from 0 to length - 1.
    """
    full, rest = length // width, length % width  # full rows, and the length of the row behind them
    row, column = index // width, index % width
    for number in range(ROUNDS):
        size = torch.where(row < full, width, rest)  # the length of each number's row
        column = _rotated(column, below(mix_(row + 2 * number * GOLDEN & MASK ^ key), size), size)
        size = (column < rest) + full  # the length of its column: the last row lengthens the first `rest` columns
        row = _rotated(row, below(mix_(column + (2 * number + 1) * GOLDEN & MASK ^ key), size), size)
    return row * width + column


def _rotated(index: Tensor, by: Tensor, size: Tensor) -> Tensor:
    """(index + by) modulo size; index and by are below size, so a subtraction does it."""
    moved = index + by
    return torch.where(moved < size, moved, moved - size)
