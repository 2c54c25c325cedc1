"""Converts texts to rows of token ids: [CLS] a [SEP], or [CLS] a [SEP] b [SEP]."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uer.tokenizers import Tokenizer

ROWS_AT_ONCE = 1 << 13  # are joined; the index arrays of so many are small


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
        values = np.concatenate(rows).astype(dtype, copy=False) if len(rows) else np.empty(0, dtype=dtype)
        return cls.of_lengths(values, lengths)

    @classmethod
    def of_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Rows of these lengths, (rows,) int64, which follow one another in `values`."""
        return cls(values, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]))


def content_hash(*parts: object) -> str:
    """SHA-256 of the parts' JSON."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def tokenize_all(tokenizer: Tokenizer, texts: Sequence[str]) -> Ragged:
    """The token ids of every text, without [CLS] and [SEP]; a newline inside a text is read as a space.

    Returns:
        One row of int32 token ids for each text.
    """
    ids, offsets = tokenizer.encode_lines("".join(text.replace("\n", " ") + "\n" for text in texts))
    assert len(offsets) == len(texts) + 1
    return Ragged(ids.astype(np.int32), offsets)


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
    parts = [first] if second is None else [first, second]
    blocks = [_join(parts, slice(start, start + ROWS_AT_ONCE), seq_length, truncation, cls_id, sep_id)
              for start in range(0, max(1, len(first)), ROWS_AT_ONCE)]
    values, lengths, first_lengths = map(np.concatenate, zip(*blocks))
    return Sequences(Ragged.of_lengths(values, lengths), first_lengths)


def _join(parts: Sequence[Ragged], rows: slice, seq_length: int, truncation: str, cls_id: int,
          sep_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`build_sequences` for R of the rows: all tokens int32 (tokens,), the rows' lengths and `first`, int64 (R,) both.

    Every token is [SEP] at first; then each row begins with [CLS], and each part is written where it belongs.
    """
    starts = [part.offsets[:-1][rows] for part in parts]  # (R,) each: where the row's tokens are in `values`
    lengths = [part.offsets[1:][rows] - start for part, start in zip(parts, starts)]  # (R,)
    allowed = _allowed(lengths, seq_length - 1 - len(parts), truncation)
    kept = [np.minimum(length, most) for length, most in zip(lengths, allowed)]
    totals = np.minimum(1 + sum(kept) + len(parts), seq_length)  # (R,)
    begins = np.cumsum(totals) - totals  # (R,): where each row begins
    values, at = np.full(totals.sum(), sep_id, np.int32), np.ones_like(totals)  # at: where the part is in its row
    values[begins] = cls_id
    for part, start, length, most, count in zip(parts, starts, lengths, allowed, kept):
        written = np.clip(seq_length - at, 0, count)  # (R,): "head" cuts the joined row
        row = np.repeat(np.arange(len(written)), written)  # (tokens,), of each token that is written
        token = np.arange(len(row)) - np.repeat(np.cumsum(written) - written, written)  # its number in the part
        head = {"head_tail": most // 4, "tail": np.zeros_like(most)}.get(truncation, most)
        left_out = np.where(token < head[row], 0, (length - count)[row])
        values[begins[row] + at[row] + token] = part.values[start[row] + token + left_out]
        at = at + count + 1
    return values, totals, np.minimum(kept[0] + 2, seq_length)


def _allowed(lengths: Sequence[np.ndarray], budget: int, truncation: str) -> list[np.ndarray]:
    """How many tokens of each text (R,) are read: all of them with "head", else `budget` of a row together; of two
    texts, the shorter may keep up to half of the budget.

    Lengths 10 and 3 with a budget of 8 become 5 and 3; lengths 10 and 9 become 4 and 4.
    """
    if truncation == "head":
        return list(lengths)
    if len(lengths) == 1:
        return [np.full_like(lengths[0], budget)]
    shorter = np.minimum(np.minimum(*lengths), budget // 2)
    first = np.where(lengths[0] <= lengths[1], shorter, budget - shorter)
    return [first, budget - first]


def keep(tokens: np.ndarray, most: int, truncation: str) -> np.ndarray:
    """At most `most` tokens: the last ones, the first ones, or a quarter from the head and the rest from the tail.

    >>> keep(np.arange(20), 8, "head_tail").tolist()
    [0, 1, 14, 15, 16, 17, 18, 19]
    """
    if len(tokens) <= most:
        return tokens
    head = {"first": most, "head_tail": most // 4, "tail": 0}[truncation]
    return np.concatenate([tokens[:head], tokens[len(tokens) - (most - head):]])
