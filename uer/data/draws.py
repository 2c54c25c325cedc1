"""Random choices while a dataset is made, as functions of integers: they do not depend on the number of processes.

    draws = Draws(seed=7, file=0, start=0)
    keys = draws.documents(np.arange(3), copy=0)          # a key for each of three documents
    below(drawn(keys, 1), np.array([5, 9, 2]))            # for each a number below 5, 9 and 2

A random generator would give each process other numbers. Here a choice is a hash of the seed, of its document (file of
the corpus, first byte of the shard, number in the shard), and of the purpose of the choice.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

MASK = 0xFFFFFFFF
GOLDEN = 0x1E3779B9  # an odd constant near 2^32 times the golden ratio's fraction, less its highest bit
BITS_OF_BYTES = np.array([number.bit_count() for number in range(256)], np.int64)
MANY_COINS = 1 << 12

Number = TypeVar("Number")  # int, int64 array of numpy, int64 tensor of torch


def mix(value: Number) -> Number:
    """A bijection of the 32-bit numbers in which every bit of the input affects every bit of the output.

    The multipliers are from Chris Wellons' search for the least biased functions of this form (hash-prospector). 2^32
    is subtracted from the second, which does not change the lower 32 bits and keeps the product within int64.
    """
    value = value ^ value >> 16
    value = value * 0x21F0AAAD & MASK
    value = value ^ value >> 15
    value = value * (0xD35A2D97 - (1 << 32)) & MASK
    return value ^ value >> 15


def absorbed(state: Number, word: Number) -> Number:
    """The hash `state` of some integers, and one more integer from 0 to 2^63 - 1 -> the hash of all of them."""
    return mix((word ^ word >> 32) & MASK ^ state)


def drawn(keys: np.ndarray, number: int | np.ndarray) -> np.ndarray:
    """A 32-bit hash of each key and a purpose: int64, of the shape that `keys` and `number` broadcast to.

    Args:
        keys: int64 below 2^32.
        number: which choice of the key this is; other numbers give independent choices.
    """
    return mix((mix(keys + np.int64(GOLDEN) & MASK) + number) & MASK)


def below(hashed: np.ndarray, limit: int | np.ndarray) -> np.ndarray:
    """32-bit hashes as numbers from 0 to `limit` - 1, of the same shape; see `uer.data.hashing.below`.

    >>> below(np.array([0, 1 << 31, (1 << 32) - 1]), 10).tolist()
    [0, 5, 9]
    """
    return hashed * limit >> 32


def coins(keys: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """How many of `amounts` fair coins of each key show heads: (N,) int64, binomially distributed.

    A hash is 32 coins, so amounts [3, 40] take 3 bits of one hash, and 32 bits of one hash and 8 of another.

    Args:
        keys: (N,) int64 below 2^32.
        amounts: (N,) how many coins each key tosses.
    """
    heads = np.zeros(len(keys), np.int64)
    many = amounts > MANY_COINS
    for one in np.flatnonzero(many):  # few keys, with many words of 32 coins each
        words = np.arange(-(-amounts[one] // 32))
        heads[one] = _heads(np.repeat(keys[one], len(words)), words, amounts[one] - 32 * words).sum()
    chosen, left, word = np.arange(len(keys)), np.where(many, 0, amounts), 0  # the keys that need more, and how many
    while len(chosen := chosen[left > 0]):
        left = left[left > 0]
        heads[chosen] += _heads(keys[chosen], word, left)
        left, word = left - 32, word + 1
    return heads


def _heads(keys: np.ndarray, word: int | np.ndarray, left: np.ndarray) -> np.ndarray:
    """Of at most 32 coins each: the bits of the keys' numbered words."""
    bits = drawn(keys, word) & (1 << np.minimum(left, 32)) - 1
    return BITS_OF_BYTES[bits.astype("<u4").view(np.uint8).reshape(-1, 4)].sum(1)


@dataclass(frozen=True)
class Draws:
    """The random choices of one shard.

    Attributes:
        seed: --seed.
        file: number of the shard's file in the corpus.
        start: first byte of the shard in this file.
    """

    seed: int = 7
    file: int = 0
    start: int = 0

    def documents(self, numbers: np.ndarray, copy: int) -> np.ndarray:
        """The keys of some documents, (D,) int64 below 2^32.

        Args:
            numbers: (D,) their numbers, counted from the start of the shard.
            copy: which of the copies that --dup_factor asks for; each has other keys.
        """
        state = GOLDEN
        for word in (self.seed, self.file, self.start, copy):
            state = absorbed(state, word)
        return absorbed(np.int64(state), numbers.astype(np.int64))
