"""Lines of tab-separated fields: each line is an instance of its own, made of special tokens and tokenized fields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from uer.data.processors.base import Block, Lines, Ragged

Fields = tuple[Ragged | list[str], ...]
"""For each field all lines' values; see `Lines.fields`."""


@dataclass(frozen=True)
class Mark:
    """A special token."""

    id: int
    lines: np.ndarray | None = None
    """(lines,) bool: which lines have it; None: all."""


def assembled(parts: Sequence[Ragged | Mark], kept: np.ndarray, limit: int) -> Ragged:
    """The parts of each kept line, one after another, cut at `limit` tokens. Special tokens are words of their own.

    All tokens are taken from the parts' ids at once. For [CLS] a [SEP] with a = 7 8 in line 0 and 5 in line 1:

        ids     [CLS] 7 8 5 [SEP]
        begins  0 1 4 | 0 3 4       sizes  1 2 1 | 1 1 1       (lines, parts)
        result  [CLS] 7 8 [SEP] | [CLS] 5 [SEP]

    Args:
        parts: fields, and special tokens between them.
        kept: (K,) the numbers of the lines that become rows.
        limit: tokens of a row at most.

    Returns:
        K rows.
    """
    begins, sizes, base = [], [], 0
    for part in parts:
        if isinstance(part, Ragged):
            begins.append(base + part.offsets[kept])
            sizes.append(part.lengths[kept])
            base += len(part.ids)
        else:
            begins.append(np.full(len(kept), base))
            sizes.append(np.ones(len(kept), np.int64) if part.lines is None else part.lines[kept].astype(np.int64))
            base += 1
    stops = np.minimum(np.cumsum(np.stack(sizes, axis=1), axis=1), limit)  # (K, parts), in the row
    cut = np.diff(stops, prepend=0, axis=1).ravel()  # (K * parts,) sizes
    ends = np.cumsum(cut)
    origin = np.arange(ends[-1] if len(ends) else 0) + np.repeat(np.stack(begins, axis=1).ravel() - ends + cut, cut)
    fields = [part for part in parts if isinstance(part, Ragged)]
    ids = _chained([part.ids if isinstance(part, Ragged) else part.id for part in parts], fields[0].ids.dtype)
    words = None
    if fields[0].word_start is not None:
        words = _chained([part.word_start if isinstance(part, Ragged) else 1 for part in parts], np.uint8)[origin]
    return Ragged(ids[origin], np.concatenate([[0], np.cumsum(stops[:, -1])]), words)


def _chained(parts: Sequence[np.ndarray | int], dtype: np.dtype | type) -> np.ndarray:
    """Arrays and single numbers, one after another."""
    return np.concatenate([np.atleast_1d(np.asarray(part, dtype)) for part in parts])


class FieldBuilder:
    """Makes an instance of each line, or leaves it out and says why.

    Attributes:
        documents: instances so far.
        blank_lines: lines without any text.
    """

    def __init__(self) -> None:
        self.documents = 0
        self.blank_lines = 0
        self._tokens: dict[str, int] = {}  # of each sequence so far

    def problems(self, fields: Fields) -> Mapping[str, np.ndarray]:
        """Why lines are left out: for each reason (lines,) bool."""
        return without_tokens(fields)

    def instances(self, fields: Fields, kept: np.ndarray) -> tuple[dict[str, Ragged], dict[str, np.ndarray]]:
        """The instances of the kept lines (K,).

        Returns:
            for each sequence ("src", "tgt") K rows; and the columns that have a value an instance, (K,) by name.
        """
        raise NotImplementedError

    def add(self, lines: Lines) -> Block:
        """Turn the next lines into instances."""
        blank = np.all([_blank(field) for field in lines.fields], axis=0)  # (lines,)
        wanted, names, left_out = ~blank, lines.names, []
        for reason, found in self.problems(lines.fields).items():
            left_out += [(number, reason) for number in names[found & wanted].tolist()]
            wanted &= ~found
        kept = np.flatnonzero(wanted)
        self.documents += len(kept)
        self.blank_lines += int(blank.sum())
        sequences, columns = self.instances(lines.fields, kept)
        starts = {}
        for axis, rows in sequences.items():
            columns[axis] = rows.ids
            starts[axis] = self._tokens.get(axis, 0) + rows.offsets[:-1]
            self._tokens[axis] = self._tokens.get(axis, 0) + len(rows.ids)
        if sequences["src"].word_start is not None:
            columns["word_start"] = sequences["src"].word_start
        return Block(columns, starts, tuple(sorted(left_out)))

    def end_file(self) -> Block:
        """A line ends with its file, so nothing is open."""
        return Block()

    def finish(self) -> Block:
        """Nothing is held back."""
        return Block()


def _blank(field: Ragged | list[str]) -> np.ndarray:
    """(lines,) bool: where there is nothing."""
    if isinstance(field, Ragged):
        return field.lengths == 0
    empty = {text for text in set(field) if not text.strip()}
    return np.array([text in empty for text in field], bool)


def without_tokens(fields: Fields, needed: int | None = None) -> dict[str, np.ndarray]:
    """The problem of an empty field, of the first `needed` ones (default: all)."""
    return {f"field {number} has no text": _blank(field) for number, field in enumerate(fields[:needed], 1)}
