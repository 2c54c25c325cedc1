"""Sentence pairs: what the processors `bert` and `albert` have in common. Each line of a document is a sentence.

Consecutive sentences of a document that have together as many tokens as a row are a chunk. A chunk is divided into two
parts, which become [CLS] first [SEP] second [SEP].

    document  s0 s1 s2 s3 s4     chunk  s0 s1 s2     parts  s0 | s1 s2

Many documents are processed together (a pool): so a pair can take its second part from another document, and numpy
processes thousands of pairs in one operation.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from uer.config import MaskingConfig, flag
from uer.data.draws import Draws, below, coins, drawn
from uer.data.processors.base import Block, Lines, Ragged

POOL_TOKENS = 1 << 19
"""The documents that have been read are processed when they have so many tokens."""
LARGEST_DOCUMENT = 1 << 22
"""In tokens; a longer document is processed in pieces of this size, so that memory is limited."""
LENT_TOKENS = 1 << 16
"""How many tokens of a document are kept, for a later pool that has no other document to draw from."""
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
    """The number of the pool's first document, counted from the start of the shard."""
    lent: int = 0
    """How many documents at the end have been processed before: the others draw sentences from them."""


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


class PairBuilder:
    """Collects documents and makes pairs of them.

    Args:
        seq_length: tokens of a full row.
        cls_id, sep_id: the ids of the special tokens.
        short_seq_prob: the probability that a document's rows get a random length between 2 and that of a full row.
        draws: the random choices of the shard.
        copies: how often each document is processed, each time with other random choices.

    Attributes:
        documents: finished documents so far.
        blank_lines: lines without tokens.
    """

    def __init__(self, seq_length: int, cls_id: int, sep_id: int, short_seq_prob: float, draws: Draws,
                 copies: int) -> None:
        self.room = seq_length - FRAME
        self.cls_id, self.sep_id = cls_id, sep_id
        self.short_seq_prob, self.draws, self.copies = short_seq_prob, draws, copies
        self.split_dtype = split_dtype(seq_length)
        self.documents = 0
        self.blank_lines = 0
        self._position = 0  # tokens made so far
        self._held: list[Lines] = []  # lines that are not worked on yet
        self._held_tokens = 0
        self._lent: Pool | None = None  # the last document that ended in an earlier pool

    def pairs(self, pool: Pool, copy: int) -> tuple[Pairs, np.ndarray, dict[str, np.ndarray]]:
        """The pairs of a pool.

        Returns:
            C pairs; their keys (C,), which `_truncated` draws with; and further columns with a value per pair, by name.
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
            self._held.append(Lines((Ragged(np.empty(0, last.ids.dtype), np.zeros(2, np.int64), words),)))
            self.blank_lines -= 1  # it is not in the file, so it is not counted
        return Block()

    def finish(self) -> Block:
        """Process what is left."""
        return self._work(at_end=True) if self._held else Block()

    def _work(self, at_end: bool) -> Block:
        """Make pairs of the documents that are complete; keep the rest.

        Of lines of 3 4 0 5 2 tokens, where 0 is a blank line, the document 3 4 is complete and processed. Further lines
        may belong to the other one, so 5 2 are kept.
        """
        ids, words, lengths, unfinished = self._joined()
        whole, goes_on = len(lengths), False  # how many lines belong to complete documents
        if not at_end:
            whole = _complete(lengths[:len(lengths) - unfinished])
            if not whole and len(ids) >= LARGEST_DOCUMENT:  # process what there is of this document
                whole = len(lengths) - unfinished or len(lengths)  # a line without end is cut, too
                goes_on = True
        tokens = int(lengths[:whole].sum())
        rest = slice(tokens, None)
        self._hold(ids[rest], None if words is None else words[rest], lengths[whole:], unfinished)
        if not whole:
            return Block()
        pool = self._pool(ids[:tokens], None if words is None else words[:tokens], lengths[:whole])
        if len(pool.documents) < 2:
            return Block()
        blocks = [self._block(self._with_lent(pool), copy) for copy in range(self.copies)]
        if ended := len(pool.documents) - 1 - goes_on:  # a document lends nothing to its own further pieces
            self._lent = _document(pool, ended - 1)
        return _concatenated(blocks)

    def _with_lent(self, pool: Pool) -> Pool:
        """A pool; where it is a single document, with an earlier one behind it, so that pairs can be drawn of two.

        Only the first document of a shard, if it has more than `LARGEST_DOCUMENT` tokens or no other follows, is alone.
        """
        lent = self._lent
        if len(pool.documents) > 2 or lent is None:
            return pool
        words = None if pool.word_start is None else np.concatenate([pool.word_start, lent.word_start])
        sentences = np.append(pool.sentences, pool.sentences[-1] + lent.sentences[1:])
        return Pool(np.concatenate([pool.ids, lent.ids]), words, sentences,
                    np.append(pool.documents, len(sentences) - 1), pool.first, lent=1)

    def _joined(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, bool]:
        """The lines that are kept: ids (N,), word starts (N,), tokens of each line (lines,), and whether the last line
        continues in the next block."""
        ids = np.concatenate([lines.tokens.ids for lines in self._held])
        words = None
        if self._held[0].tokens.word_start is not None:
            words = np.concatenate([lines.tokens.word_start for lines in self._held])
        lengths: list[np.ndarray] = []
        goes_on = False
        for lines in self._held:
            here = lines.tokens.lengths.astype(np.int64)
            if goes_on:  # the first line is the rest of the one before
                lengths[-1][-1] += here[0]
                here = here[1:]
            if len(here):  # else the block is all one line's, which goes on
                lengths.append(here)
            goes_on = lines.unfinished
        return ids, words, np.concatenate(lengths), goes_on

    def _hold(self, ids: np.ndarray, words: np.ndarray | None, lengths: np.ndarray, unfinished: bool) -> None:
        """Keep these lines instead of all; arguments as `_joined` returns them."""
        self._held_tokens = len(ids)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        self._held = [Lines((Ragged(ids, offsets, words),), unfinished)] if len(lengths) else []

    def _pool(self, ids: np.ndarray, words: np.ndarray | None, lengths: np.ndarray) -> Pool:
        """Lines of `lengths` tokens, where 0 is a blank line, as documents.

            lengths [3, 4, 0, 0, 5]  ->  sentences [0, 3, 7, 12], documents [0, 2, 3]
        """
        filled = lengths > 0
        paragraph = np.cumsum(~filled)[filled]  # (sentences,) blank lines before each: [0, 0, 2] in the example
        firsts = np.flatnonzero(np.diff(paragraph, prepend=-1))
        self.blank_lines += int((~filled).sum())
        pool = Pool(ids, words, np.concatenate([[0], np.cumsum(lengths[filled])]),
                    np.append(firsts, len(paragraph)), self.documents)
        self.documents += len(firsts)
        return pool

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
        stops = np.cumsum(sizes)
        origin = np.arange(stops[-1] if len(stops) else 0, dtype=np.int32)
        origin += np.repeat((begins - stops + sizes).astype(np.int32), sizes)
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


def _complete(lengths: np.ndarray) -> int:
    """How many of the lines, of `lengths` tokens each, make whole documents, at least two; 0 where there is only one:
    [3, 0, 4, 2, 0, 0, 5] -> 6, [3, 0, 5] -> 0."""
    blank = np.flatnonzero(lengths == 0)
    if not len(blank):
        return 0
    filled = lengths[:blank[-1]] > 0
    ends = np.count_nonzero(filled & ~np.append(filled[1:], False))  # documents end where a blank line follows
    return int(blank[-1]) + 1 if ends > 1 else 0


def _document(pool: Pool, number: int) -> Pool:
    """The first sentences, at least one, of one of the pool's documents, as a pool of its own."""
    begin, stop = pool.documents[number:number + 2].tolist()
    first = pool.sentences[begin]
    stop = min(stop, max(int(np.searchsorted(pool.sentences, first + LENT_TOKENS, side="right")) - 1, begin + 1))
    tokens = slice(int(first), int(pool.sentences[stop]))
    words = None if pool.word_start is None else pool.word_start[tokens].copy()
    return Pool(pool.ids[tokens].copy(), words, pool.sentences[begin:stop + 1] - first,
                np.array([0, stop - begin]), pool.first)


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


def _concatenated(blocks: list[Block]) -> Block:
    """One block of all their columns and starts."""
    if len(blocks) < 2:
        return blocks[0] if blocks else Block()
    return Block({name: np.concatenate([block.columns[name] for block in blocks]) for name in blocks[0].columns},
                 {axis: np.concatenate([block.starts[axis] for block in blocks]) for axis in blocks[0].starts})


def split_dtype(seq_length: int) -> str:
    """The type of the column `split`, the position at which the second part begins."""
    return "uint16" if seq_length < 1 << 16 else "uint32"
