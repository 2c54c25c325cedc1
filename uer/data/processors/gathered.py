"""What the processors `bart` and `gsg` have in common: sentences of a document are gathered until a row is full."""

from bisect import bisect_left
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from uer.data.processors.pools import Pool, stretches

FRAME = 2  # [CLS] and [SEP]


class Sentences(NamedTuple):
    """The sentences of D documents that are short enough, N of them; the others are left out, as in UER-py."""

    begins: np.ndarray
    """(N,) int64, the first token of each in the pool."""
    sizes: np.ndarray
    """(N,) int64, its tokens."""
    documents: np.ndarray
    """(D + 1,) int64: document d has the sentences documents[d] to documents[d + 1] - 1, perhaps none."""
    short: np.ndarray
    """(sentences,) bool: which of the pool's sentences these are."""


def short_sentences(pool: Pool, longest: int) -> Sentences:
    """The pool's sentences of at most `longest` tokens."""
    sizes = np.diff(pool.sentences)
    kept = sizes <= longest
    documents = np.concatenate([[0], np.cumsum(kept)])[pool.documents]
    return Sentences(pool.sentences[:-1][kept], sizes[kept], documents, kept)


def gathered(documents: np.ndarray, *sums: tuple[np.ndarray, int]) -> tuple[np.ndarray, np.ndarray]:
    """Divide documents into chunks of consecutive sentences: (C,) first and (C,) last sentence + 1 of each.

    A chunk ends before the sentence with which one of its sums would reach its limit, but has at least one sentence.

    >>> [array.tolist() for array in gathered(np.array([0, 3, 4]), (np.array([0, 3, 7, 12, 14]), 8))]
    [[0, 2, 3], [2, 3, 4]]

    The sentences have 3, 4, 5 and 2 tokens; the first two have 7 together, below 8.

    Args:
        documents: of `Sentences`.
        sums: for each quantity, (N + 1,) its cumulative sum over sentences from 0 on, and the limit.
    """
    tables = [(table.tolist(), limit) for table, limit in sums]
    found: list[tuple[int, int]] = []
    bounds = documents.tolist()
    for start, stop in pairwise(bounds):
        while start < stop:
            end = stop
            for table, limit in tables:
                end = min(end, bisect_left(table, table[start] + limit, start + 2, end + 1) - 1)
            found.append((start, end))
            start = end
    chunks = np.array(found, np.int64).reshape(-1, 2)
    return chunks[:, 0], chunks[:, 1]


def framed(begins: np.ndarray, sizes: np.ndarray, rows: np.ndarray, cls: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the tokens of framed rows come from, and where each row starts among them.

    Two rows, of the stretches 4 5 6 and 9 and of the stretch 12 13, with [CLS] at 20 and [SEP] at 21:

    >>> [array.tolist() for array in framed(np.array([4, 9, 12]), np.array([3, 1, 2]), np.array([0, 2, 3]), 20)]
    [[20, 4, 5, 6, 9, 21, 20, 12, 13, 21], [0, 6]]

    Args:
        begins, sizes: (N,) int64, stretches of tokens.
        rows: (R + 1,) int64: row r has the stretches rows[r] to rows[r + 1] - 1.
        cls: where [CLS] stands; [SEP] stands behind it.
    """
    at = np.stack([rows[:-1], rows[1:]], 1).ravel()  # (2 R,): before these stretches a [CLS], a [SEP], a [CLS] ...
    marks = np.tile([cls, cls + 1], len(rows) - 1)
    origin, stops = stretches(np.insert(begins, at, marks), np.insert(sizes, at, 1))
    last = rows[1:] + 2 * np.arange(1, len(rows)) - 1  # the number of each row's [SEP] among all stretches
    return origin, np.concatenate([[0], stops[last]])[:-1]
