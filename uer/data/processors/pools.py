"""Documents of sentences, a sentence a line: they are collected, and many are worked on together (a pool).

So numpy processes thousands of instances in one operation, and memory is constant.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from uer.data.draws import Draws
from uer.data.processors.base import Block, Builder, Lines, Ragged

POOL_TOKENS = 1 << 19
"""The documents that have been read are processed when they have so many tokens."""
LARGEST_DOCUMENT = 1 << 22
"""In tokens; a longer document is processed in pieces of this size, so that memory is limited."""


class Pool(NamedTuple):
    """D documents with N tokens, none of them empty.

    Sentence i has the tokens `sentences[i]` to `sentences[i + 1]` - 1, document d the sentences `documents[d]` to
    `documents[d + 1]` - 1. Two documents, of two sentences (3 and 4 tokens) and of one (5 tokens), have the sentences
    [0, 3, 7, 12] and the documents [0, 2, 3].
    """

    ids: np.ndarray
    """(N,) token ids"""
    word_start: np.ndarray | None
    """(N,) uint8"""
    sentences: np.ndarray
    """(sentences + 1,) int64"""
    documents: np.ndarray
    """(D + 1,) int64"""
    first: int
    """The number of the pool's first document, counted from the start of the shard; each piece of a long one counts."""
    lines: np.ndarray
    """(sentences,) int64, the number of each sentence's line."""
    lent: int = 0
    """How many documents at the end are from elsewhere: the others draw sentences from them."""

    def left_out(self, reasons: Mapping[str, np.ndarray]) -> tuple[tuple[int, str], ...]:
        """`Block.left_out` of the sentences that a reason applies to: (sentences,) bool for each."""
        return tuple(sorted((line, reason) for reason, found in reasons.items() for line in self.lines[found].tolist()))


class PoolBuilder(Builder):
    """Collects lines, and calls `work_on` with the documents that are complete.

    Args:
        draws: the random choices of the shard.
        copies: how often each document is processed, each time with other random choices.
    """

    def __init__(self, draws: Draws, copies: int) -> None:
        self.draws, self.copies = draws, copies
        self._held: list[Lines] = []  # lines that are not worked on yet
        self._held_tokens = 0
        self._pieces = 0  # documents, and pieces of long ones, that were worked on
        self._goes_on = False  # the last of them was a piece of a document whose end is still to come

    def work_on(self, pool: Pool, goes_on: bool) -> Block:
        """The instances of at least one document.

        Args:
            goes_on: the pool is a piece of one document, whose next piece follows.
        """
        raise NotImplementedError

    def add(self, lines: Lines) -> Block:
        """Keep the lines, and process all finished documents when they have `POOL_TOKENS` tokens."""
        self._held.append(lines)
        self._held_tokens += len(lines.tokens.ids)
        return self._work(at_end=False) if self._held_tokens >= POOL_TOKENS else Block()

    def end_file(self) -> Block:
        """Add a blank line, since the last document of a file ends with the file. Nothing is made yet."""
        if self._held:
            last = self._held[-1].tokens
            words = None if last.word_start is None else np.empty(0, np.uint8)
            self._held.append(Lines((Ragged(np.empty(0, last.ids.dtype), np.zeros(2, np.int64), words),),
                                    numbers=self._held[-1].names[-1:]))
            self.blank_lines -= 1  # it is not in the file, so it is not counted
        self._goes_on &= bool(self._held)
        return Block()

    def finish(self) -> Block:
        """Process what is left."""
        return self._work(at_end=True) if self._held else Block()

    def _work(self, at_end: bool) -> Block:
        """Work on the documents that are complete; keep the rest.

        Of lines of 3 4 0 5 2 tokens, where 0 is a blank line, the document 3 4 is complete and processed. Further lines
        may belong to the other one, so 5 2 are kept.
        """
        ids, words, lengths, numbers, unfinished = self._joined()
        whole, goes_on = len(lengths), False  # how many lines belong to complete documents
        if not at_end:
            whole = complete(lengths[:len(lengths) - unfinished])
            if not whole and len(ids) >= LARGEST_DOCUMENT:  # process what there is of this document
                whole = len(lengths) - unfinished or len(lengths)  # a line without end is cut, too
                goes_on = True
        tokens = int(lengths[:whole].sum())
        rest = slice(tokens, None)
        self._hold(ids[rest], None if words is None else words[rest], lengths[whole:], numbers[whole:], unfinished)
        if not whole:
            return Block()
        pool = pooled(ids[:tokens], None if words is None else words[:tokens], lengths[:whole], numbers[:whole],
                      self._pieces)
        self._pieces += len(pool.documents) - 1
        continued = self._goes_on and bool(lengths[0])  # a blank line would end it
        self.documents, self._goes_on = self.documents + len(pool.documents) - 1 - continued, goes_on
        self.blank_lines += int(np.count_nonzero(lengths[:whole] == 0))
        return self.work_on(pool, goes_on) if len(pool.documents) > 1 else Block()

    def _joined(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray, bool]:
        """The lines that are kept: ids (N,), word starts (N,), tokens and number of each line (lines,), and whether the
        last line continues in the next block."""
        ids = np.concatenate([lines.tokens.ids for lines in self._held])
        words = None
        if self._held[0].tokens.word_start is not None:
            words = np.concatenate([lines.tokens.word_start for lines in self._held])
        lengths: list[np.ndarray] = []
        numbers: list[np.ndarray] = []
        goes_on = False
        for lines in self._held:
            here = lines.tokens.lengths.astype(np.int64)
            if goes_on:  # the first line is the rest of the one before
                lengths[-1][-1] += here[0]
                here = here[1:]
            if len(here):  # else the block is all one line's, which goes on
                lengths.append(here)
                numbers.append(lines.names[-len(here):])
            goes_on = lines.unfinished
        return ids, words, np.concatenate(lengths), np.concatenate(numbers), goes_on

    def _hold(self, ids: np.ndarray, words: np.ndarray | None, lengths: np.ndarray, numbers: np.ndarray,
              unfinished: bool) -> None:
        """Keep these lines instead of all; arguments as `_joined` returns them."""
        self._held_tokens = len(ids)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        self._held = [Lines((Ragged(ids, offsets, words),), unfinished, numbers)] if len(lengths) else []


def pooled(ids: np.ndarray, words: np.ndarray | None, lengths: np.ndarray, numbers: np.ndarray, first: int) -> Pool:
    """Lines of `lengths` tokens, where 0 is a blank line, and their numbers, as documents.

        lengths [3, 4, 0, 0, 5]  ->  sentences [0, 3, 7, 12], documents [0, 2, 3]

    Args:
        first: of `Pool`.
    """
    filled = lengths > 0
    paragraph = np.cumsum(~filled)[filled]  # (sentences,) blank lines before each: [0, 0, 2] in the example
    firsts = np.flatnonzero(np.diff(paragraph, prepend=-1))
    return Pool(ids, words, np.concatenate([[0], np.cumsum(lengths[filled])]), np.append(firsts, len(paragraph)),
                first, numbers[filled])


def stretches(begins: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each token of some stretches comes from, and where each stretch ends among them.

    >>> [array.tolist() for array in stretches(np.array([9, 2, 10]), np.array([1, 3, 1]))]
    [[9, 2, 3, 4, 10], [1, 4, 5]]

    Args:
        begins: (N,) int64, the first token of each stretch.
        sizes: (N,) int64, its tokens.

    Returns:
        (sum of sizes,) int32 and (N,) int64.
    """
    stops = np.cumsum(sizes)
    origin = np.arange(stops[-1] if len(stops) else 0, dtype=np.int32)
    origin += np.repeat((begins - stops + sizes).astype(np.int32), sizes)
    return origin, stops


def complete(lengths: np.ndarray) -> int:
    """How many of the lines, of `lengths` tokens each, make whole documents, at least two; 0 where there is only one:
    [3, 0, 4, 2, 0, 0, 5] -> 6, [3, 0, 5] -> 0."""
    blank = np.flatnonzero(lengths == 0)
    if not len(blank):
        return 0
    filled = lengths[:blank[-1]] > 0
    ends = np.count_nonzero(filled & ~np.append(filled[1:], False))  # documents end where a blank line follows
    return int(blank[-1]) + 1 if ends > 1 else 0


def concatenated(blocks: list[Block]) -> Block:
    """One block of all their columns and starts."""
    if len(blocks) < 2:
        return blocks[0] if blocks else Block()
    return Block({name: np.concatenate([block.columns[name] for block in blocks]) for name in blocks[0].columns},
                 {axis: np.concatenate([block.starts[axis] for block in blocks]) for axis in blocks[0].starts})
