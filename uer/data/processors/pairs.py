"""Sentence pairs: what the processors `bert` and `albert` have in common. Each line of a document is a sentence.

Consecutive sentences of a document that have together as many tokens as a row are a chunk. A chunk is divided into two
parts, which become [CLS] first [SEP] second [SEP].

    document  s0 s1 s2 s3 s4     chunk  s0 s1 s2     parts  s0 | s1 s2

Many documents are processed together (a pool, see `uer.data.processors.pools`): so a pair can take its second part from
another document.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from uer.config import MaskingConfig, flag
from uer.data.draws import Draws, below, coins, drawn
from uer.data.processors.base import Block
from uer.data.processors.pools import Pool, PoolBuilder, concatenated, stretches

FRAME = 3  # the special tokens of [CLS] first [SEP] second [SEP]

# The purposes of the random numbers of a document, and of a chunk, whose key depends on its first sentence.
SHORT, SHORT_LENGTH, CHUNKS = 0, 1, 2
SPLIT, FRONT_OF_FIRST, FRONT_OF_SECOND, COIN = 0, 1, 2, 3
HEADS = 1 << 31


@dataclass(frozen=True)
class PairConfig(MaskingConfig):
    """Sentence pairs (--data_processor bert and albert)"""

    short_seq_prob: float = flag(0.1, "Probability that the rows of a document get a random shorter length.")

    def problems(self) -> list[str]:
        within = 0.0 <= self.short_seq_prob <= 1.0
        return super().problems() + ([] if within else ["--short_seq_prob must lie between 0 and 1"])


class Chunks(NamedTuple):
    """C chunks, each array (C,) int64: sentences `start` to `end` - 1 of the pool, divided before sentence `middle`."""

    document: np.ndarray
    start: np.ndarray
    middle: np.ndarray
    end: np.ndarray
    keys: np.ndarray
    """What the random choices of each chunk depend on."""
    target: np.ndarray
    """How many tokens its pair should have, without [CLS] and [SEP]."""


class Pairs(NamedTuple):
    """C pairs, each array (C,) int64: the first part is the pool's tokens `first_begin` to `first_end` - 1, the second
    `second_begin` to `second_end` - 1."""

    first_begin: np.ndarray
    first_end: np.ndarray
    second_begin: np.ndarray
    second_end: np.ndarray


class PairBuilder(PoolBuilder):
    """Collects documents and makes pairs of them.

    Args:
        seq_length: tokens of a full row.
        cls_id, sep_id: the ids of the special tokens.
        short_seq_prob: the probability that a document's rows get a random length between 2 and that of a full row.
        draws: the random choices of the shard.
        copies: how often each document is processed, each time with other random choices.
    """

    def __init__(self, seq_length: int, cls_id: int, sep_id: int, short_seq_prob: float, draws: Draws,
                 copies: int) -> None:
        super().__init__(draws, copies)
        self.room = seq_length - FRAME
        self.cls_id, self.sep_id = cls_id, sep_id
        self.short_seq_prob = short_seq_prob
        self.split_dtype = split_dtype(seq_length)
        self._position = 0  # tokens made so far

    def pairs(self, pool: Pool, copy: int) -> tuple[Pairs, np.ndarray, dict[str, np.ndarray]]:
        """The pairs of a pool.

        Returns:
            C pairs; their keys (C,), which `_truncated` draws with; and further columns with a value per pair, by name.
        """
        raise NotImplementedError

    def work_on(self, pool: Pool, goes_on: bool) -> Block:
        """The pairs of all copies of the pool."""
        return concatenated([self._block(pool, copy) for copy in range(self.copies)])

    def gather(self, pool: Pool, copy: int, put_back: bool) -> Chunks:
        """The chunks of every document.

        Args:
            copy: which copy of the documents; each has other random choices.
            put_back: a chunk whose coin shows heads takes its second part from another document (see `bert`), so the
                sentences behind its first part are used for the next chunk.
        """
        # For each document (D,): its key, and the number of tokens that its chunks should have.
        documents = pool.documents[:len(pool.documents) - pool.lent]
        document_keys = self.draws.documents(pool.first + np.arange(len(documents) - 1), copy)
        short = drawn(document_keys, SHORT) < round(self.short_seq_prob * (1 << 32))
        length = 2 + below(drawn(document_keys, SHORT_LENGTH), max(self.room - 1, 1))
        targets = np.where(short, np.minimum(length, self.room), self.room)
        # For each sentence, as if a chunk began there: its number in its document, its key, the coin.
        sizes = np.diff(documents)  # (D,) sentences of each document
        numbers = np.arange(sizes.sum()) - np.repeat(documents[:-1], sizes)
        keys = drawn(np.repeat(document_keys, sizes), CHUNKS + numbers)
        again = drawn(keys, COIN) < HEADS if put_back else np.zeros(len(keys), bool)
        start, middle, end = _gathered(pool.sentences.tolist(), documents.tolist(), targets.tolist(),
                                       drawn(keys, SPLIT).tolist(), again.tolist())
        document = np.searchsorted(documents, start, side="right") - 1  # (C,): documents [0, 2, 3], start 2 -> 1
        return Chunks(document, start, middle, end, keys[start], targets[document])

    def _block(self, pool: Pool, copy: int) -> Block:
        """Truncated and framed pairs as instances.

        All tokens are taken from the pool at once, behind which [CLS] and [SEP] stand: with 9 tokens in the pool at
        9 and 10. A pair of the tokens 2 to 4 and 7 consists of the stretches

            begin   9  2  10  7  10       size  1  3  1  1  1
            tokens  9  2 3 4  10  7  10
        """
        pairs, keys, columns = self.pairs(pool, copy)
        pairs = self._truncated(pairs, keys)
        first, second = pairs.first_end - pairs.first_begin, pairs.second_end - pairs.second_begin
        cls = np.full_like(first, len(pool.ids))
        sep, one = cls + 1, np.ones_like(first)
        begins = np.stack([cls, pairs.first_begin, sep, pairs.second_begin, sep], axis=1).ravel()  # (5 C,)
        sizes = np.stack([one, first, one, second, one], axis=1).ravel()
        origin, stops = stretches(begins, sizes)
        made = {"src": np.append(pool.ids, np.array([self.cls_id, self.sep_id], pool.ids.dtype))[origin]}
        if pool.word_start is not None:
            made["word_start"] = np.append(pool.word_start, np.ones(2, np.uint8))[origin]
        made["split"] = (first + 2).astype(self.split_dtype)
        starts = stops[4::5] - (FRAME + first + second)
        block = Block({**made, **columns}, {"src": self._position + starts})
        self._position += len(origin)
        return block

    def _truncated(self, pairs: Pairs, keys: np.ndarray) -> Pairs:
        """The pairs, truncated so that they fit into a row.

        BERT's rule is a loop: while a pair is too long, its longer part (the second if they are equal) loses a token,
        at the front or at the end by the toss of a coin. Here the results of all loops are computed directly:

            room 9, parts of 12 and 4: 7 tokens too many. The first part loses all of them: 5 and 4.
            room 9, parts of 7 and 6: 4 too many. The first loses 1, then the second, the first, the second: 5 and 4.

        Args:
            keys: (C,) which the coins depend on.
        """
        first, second = pairs.first_end - pairs.first_begin, pairs.second_end - pairs.second_begin  # (C,) tokens
        excess = np.maximum(first + second - self.room, 0)
        ahead = np.minimum(excess, np.abs(first - second))  # what the longer part loses until both are equal
        left = excess - ahead  # what both lose in turn; the second part begins
        from_first = np.where(first > second, ahead, 0) + left // 2
        from_second = np.where(first > second, 0, ahead) + left - left // 2
        # How many of the lost tokens are lost at the front.
        front_first = coins(drawn(keys, FRONT_OF_FIRST), from_first)
        front_second = coins(drawn(keys, FRONT_OF_SECOND), from_second)
        return Pairs(pairs.first_begin + front_first, pairs.first_end - (from_first - front_first),
                     pairs.second_begin + front_second, pairs.second_end - (from_second - front_second))


def _gathered(sentences: list[int], documents: list[int], targets: list[int], splits: list[int],
              again: list[bool]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chunks of all documents: (C,) start, middle and end, as in `Chunks`.

    Where a chunk begins depends on how the one before was divided, so this is a loop over Python's integers, which are
    faster here than numpy's.

    >>> [array.tolist() for array in _gathered([0, 3, 7, 12], [0, 3], [6], [0, 0, 0], [False, False, False])]
    [[0, 2], [1, 3], [2, 3]]

    Three sentences of 3, 4 and 5 tokens, target 6: the chunk of sentences 0 and 1 (7 tokens) is divided before 1; then
    sentence 2 alone is a chunk, whose end is its middle.

    Args:
        sentences, documents: of `Pool`.
        targets: for each document, the tokens that a chunk should have at least.
        splits: for each sentence, a 32-bit random number, which decides where a chunk that begins there is divided.
        again: for each sentence, whether the next chunk begins at the middle of a chunk that begins there.
    """
    found: list[tuple[int, int, int]] = []
    for start, stop, target in zip(documents, documents[1:], targets):
        while start < stop:
            end = min(bisect_left(sentences, sentences[start] + target, start + 1, stop + 1), stop)
            count = end - start
            middle = start + 1 + (splits[start] * (count - 1) >> 32)
            found.append((start, middle, end))
            start = middle if again[start] else end
    table = np.array(found, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def split_dtype(seq_length: int) -> str:
    """The type of the column `split`, the position at which the second part begins."""
    return "uint16" if seq_length < 1 << 16 else "uint32"
