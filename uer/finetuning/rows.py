"""Converts texts to rows of token ids: [CLS] a [SEP], or [CLS] a [SEP] b [SEP].

A process tokenizes a text only once: the key of the cache is a hash of the text, the vocabulary and the tokenizer's
settings, so that all trials of a grid share the token ids. There is no cache on disk: tokenizing the largest task here
takes 0.2 s, less than reading and checking a cache.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uer.tokenizers import Tokenizer

MOST_CACHED = 16
_cache: dict[str, "Ragged"] = {}


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one array: row i is `values[offsets[i]:offsets[i + 1]]`.

    The rows [7 8], [] and [9] are values [7 8 9] and offsets [0 2 2 3].

    Attributes:
        values: (all values of all rows,).
        offsets: (rows + 1,) int64, from 0 to len(values).
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row]:self.offsets[row + 1]]

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], dtype: type = np.int32) -> "Ragged":
        """The given arrays, each (length,), as rows."""
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        values = np.concatenate(rows).astype(dtype) if len(rows) else np.empty(0, dtype=dtype)
        return cls(values, offsets)


def content_hash(*parts: object) -> str:
    """SHA-256 of the parts' JSON."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def tokenize_all(tokenizer: Tokenizer, texts: Sequence[str]) -> Ragged:
    """The token ids of every text, without [CLS] and [SEP]; a newline inside a text is read as a space.

    Returns:
        One row of int32 token ids for each text.
    """
    joined = "".join(text.replace("\n", " ") + "\n" for text in texts)
    key = content_hash(joined, tokenizer.vocab.fingerprint, tokenizer.settings)
    if key not in _cache:
        ids, offsets = tokenizer.encode_lines(joined)
        assert len(offsets) == len(texts) + 1
        while len(_cache) >= MOST_CACHED:  # the oldest goes, so that a process that labels texts for days does not grow
            del _cache[next(iter(_cache))]
        _cache[key] = Ragged(ids.astype(np.int32), offsets)
    return _cache[key]


@dataclass(frozen=True)
class Sequences:
    """Rows for the model.

    Attributes:
        tokens: the token ids of each row, special tokens included.
        first: (rows,) int64, how many tokens of the row belong to the first text (segment 1); the others are segment 2.
    """

    tokens: Ragged
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) int64, the number of tokens in each row."""
        return np.diff(self.tokens.offsets)


def build_sequences(first: Ragged, second: Ragged | None, seq_length: int, truncation: str, cls_id: int,
                    sep_id: int) -> Sequences:
    """Join each text (or pair of texts) with the special tokens, at most `seq_length` tokens in a row.

    The texts [7 8 9 10] and [5] become with cls_id 2 and sep_id 3

        seq_length 9                2 7 8 9 10 3 5 3    first 6
        seq_length 6, "head"        2 7 8 9 10 3        first 6
        seq_length 6, "first"       2 7 8 3 5 3         first 4
        seq_length 6, "tail"        2 9 10 3 5 3        first 4

    Args:
        first, second: token ids of `text_a` and `text_b`, as many rows each.
        seq_length: maximum tokens in a row.
        truncation: what is kept of a row that is too long. `head` cuts the joined row at `seq_length`, closing [SEP]
            included, as UER-py does. The others keep [CLS] and every [SEP] and shorten the longer text of a pair first:
            `first` keeps the first tokens of a text, as transformers does, `tail` its last tokens, and `head_tail` a
            quarter of the allowed tokens from its beginning and the rest from its end (arXiv:1905.05583).
        cls_id, sep_id: token ids of [CLS] and [SEP].
    """
    rows, first_lengths = [], np.empty(len(first), dtype=np.int64)
    for row in range(len(first)):
        parts = [first[row]] if second is None else [first[row], second[row]]
        if truncation != "head":
            parts = _shorten(parts, seq_length - 1 - len(parts), truncation)
        joined = [np.array([cls_id]), *(piece for part in parts for piece in (part, np.array([sep_id])))]
        rows.append(np.concatenate(joined)[:seq_length])
        first_lengths[row] = min(len(parts[0]) + 2, seq_length)
    return Sequences(Ragged.of(rows), first_lengths)


def _shorten(parts: list[np.ndarray], budget: int, truncation: str) -> list[np.ndarray]:
    """Cut one text or two to `budget` tokens together; of two, the shorter may keep up to half of the budget.

    Lengths 10 and 3 with a budget of 8 become 5 and 3; lengths 10 and 9 become 4 and 4.
    """
    lengths = [len(part) for part in parts]
    if len(parts) == 1:
        allowed = [budget]
    else:
        shorter = min(*lengths, budget // 2)
        allowed = [shorter, budget - shorter] if lengths[0] <= lengths[1] else [budget - shorter, shorter]
    return [keep(part, most, truncation) for part, most in zip(parts, allowed)]


def keep(tokens: np.ndarray, most: int, truncation: str) -> np.ndarray:
    """At most `most` tokens: the last ones, the first ones, or a quarter from the head and the rest from the tail.

    >>> keep(np.arange(20), 8, "head_tail").tolist()
    [0, 1, 14, 15, 16, 17, 18, 19]
    """
    if len(tokens) <= most:
        return tokens
    head = {"first": most, "head_tail": most // 4, "tail": 0}[truncation]
    return np.concatenate([tokens[:head], tokens[len(tokens) - (most - head):]])
