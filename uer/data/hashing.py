"""Random numbers as functions of integers: hashes and shuffles that give the same bits on the CPU and on a GPU.

Every value is an int64 between 0 and 2^32 - 1. No product leaves the 63 bits that int64 holds, and no operation rounds,
so there is nothing that two devices could do differently.

    hash_words(7, 0, torch.tensor([3, 4]))        -> two numbers of 32 bits, always the same
    shuffled(torch.arange(5), 5, 3, key=99)       -> the numbers 0 to 4 in an order that belongs to key 99
"""

import math

import torch
from torch import Tensor

from uer.data.draws import GOLDEN, MASK, absorbed

ROUNDS = 4


def mix_(value: Tensor) -> Tensor:
    """`uer.data.draws.mix` in place, which takes two thirds of the time."""
    shifted = value >> 16
    value.bitwise_xor_(shifted).mul_(0x21F0AAAD).bitwise_and_(MASK)
    torch.bitwise_right_shift(value, 15, out=shifted)
    value.bitwise_xor_(shifted).mul_(0xD35A2D97 - (1 << 32)).bitwise_and_(MASK)
    torch.bitwise_right_shift(value, 15, out=shifted)
    return value.bitwise_xor_(shifted)


def hash_words(*words: int | Tensor) -> int | Tensor:
    """One 32-bit hash of several integers from 0 to 2^63 - 1; tensors are broadcast against one another."""
    state: int | Tensor = GOLDEN
    for word in words:
        whole = isinstance(state, int) and isinstance(word, int)
        state = absorbed(state, word) if whole else mix_((word ^ word >> 32) & MASK ^ state)
    return state


def below(hashed: Tensor, limit: int | Tensor) -> Tensor:
    """A 32-bit hash as a number from 0 to `limit` - 1; each is as likely as the others to 1 in 2^32 / limit.

    Args:
        limit: at most 2^31.
    """
    return hashed * limit >> 32


def grid_width(length: int) -> int:
    """The side of the grid that `shuffled` lays `length` numbers out on: the square root, rounded up."""
    return math.isqrt(length - 1) + 1 if length else 1


def shuffled(index: Tensor, length: int | Tensor, width: int | Tensor, key: int | Tensor) -> Tensor:
    """The place of each number of [0, length) in a shuffle that belongs to `key`: a bijection, in constant time.

    The numbers lie on a grid of `width` columns whose last row may be short. Each round turns every row by a hash of
    its number, then every column by a hash of its own: a Feistel network of unequal sides. A turn is a bijection of a
    row or column of any length, so that no number leaves the range and none has to be drawn again.

    Args:
        index: int64 numbers from 0 to length - 1.
        length, width, key: integers, or tensors that broadcast with `index`: each element may have its own shuffle.
    """
    full, rest = length // width, length % width
    row, column = index // width, index % width
    for number in range(ROUNDS):
        size = torch.where(row < full, width, rest)
        column = _turned(column, below(mix_(row + 2 * number * GOLDEN & MASK ^ key), size), size)
        size = (column < rest) + full
        row = _turned(row, below(mix_(column + (2 * number + 1) * GOLDEN & MASK ^ key), size), size)
    return row * width + column


def _turned(place: Tensor, by: Tensor, size: Tensor) -> Tensor:
    """(place + by) modulo size, both below size."""
    moved = place + by
    return torch.where(moved < size, moved, moved - size)
