"""Texts -> rows of token ids: [CLS] a [SEP], or [CLS] a [SEP] b [SEP].

A text is tokenized once in a process: the cache's key is the hash of the text, the vocabulary and the tokenizer's
settings, so that a grid's trials share one tokenization. There is no cache on disk: the fast tokenizer needs 0.2 s for
the largest task here, less than reading a cache and checking it.
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
    """Row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row]:self.offsets[row + 1]]

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], dtype: type = np.int32) -> "Ragged":
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        values = np.concatenate(rows).astype(dtype) if len(rows) else np.empty(0, dtype=dtype)
        return cls(values, offsets)


def content_hash(*parts: object) -> str:
    """SHA-256 of the parts' JSON."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def tokenize_all(tokenizer: Tokenizer, texts: Sequence[str]) -> Ragged:
    """The token ids of every text, without [CLS] and [SEP]; line ends inside a text count as spaces."""
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
    """Rows ready for the encoder: token ids, and how many of them belong to the first text (segment 1)."""

    tokens: Ragged
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.tokens.offsets)


def build_sequences(first: Ragged, second: Ragged | None, seq_length: int, truncation: str, cls_id: int,
                    sep_id: int) -> Sequences:
    """Join each text (or pair of texts) with the special tokens, at most `seq_length` tokens a row.

    Args:
        first, second: token ids of `text_a` and `text_b`.
        truncation: what is kept of a row that is too long. `head` cuts the joined row at `seq_length`, closing [SEP]
            included, as UER-py does. `tail` keeps the last tokens of a text, `head_tail` a quarter of the room for its
            first tokens and the rest for its last (arXiv:1905.05583), `first` its first tokens, as transformers does;
            these keep [CLS] and every [SEP], and of a pair they shorten the longer text first.
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
    lengths = [len(part) for part in parts]
    if len(parts) == 1:
        allowed = [budget]
    else:
        half = budget // 2
        shorter = min(lengths)
        share = min(shorter, half)
        allowed = [share, budget - share] if lengths[0] <= lengths[1] else [budget - share, share]
    return [_keep(part, most, truncation) for part, most in zip(parts, allowed)]


def _keep(tokens: np.ndarray, most: int, truncation: str) -> np.ndarray:
    """At most `most` tokens: the last ones, the first ones, or a quarter from the head and the rest from the tail.

    >>> _keep(np.arange(20), 8, "head_tail").tolist()
    [0, 1, 14, 15, 16, 17, 18, 19]
    """
    if len(tokens) <= most:
        return tokens
    head = {"first": most, "head_tail": most // 4, "tail": 0}[truncation]
    return np.concatenate([tokens[:head], tokens[len(tokens) - (most - head):]])
