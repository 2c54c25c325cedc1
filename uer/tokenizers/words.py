"""Words to ids: greedy longest-match WordPiece, remembered word by word."""

from array import array
from collections import Counter
from collections.abc import Callable

import numpy as np

BEGINNING = -1  # stands for "no entry, but an entry begins like that"

CACHED_WORDS = 1 << 17  # the memory of words is emptied beyond this many of them,
CACHED_CHARS = 1 << 22  # or this many characters


class WordPiece:
    """Greedy longest match from the left: `"tokens"` -> ids of `"to"`, then of `"ken"` and `"s"` inside a word.

    A match is sought upwards, character by character, until no entry begins like that; so a word costs about as many
    look-ups as it has characters, whatever it is made of.

    Args:
        first: text -> id of the entry for it at the beginning of a word.
        further: text -> id of the entry for it inside a word.
        max_chars: a longer word has no ids.
    """

    def __init__(self, first: dict[str, int], further: dict[str, int], max_chars: int):
        self._first = _with_beginnings(first)
        self._further = _with_beginnings(further)
        self._max_chars = max_chars

    def __call__(self, word: str) -> list[int] | None:
        """The ids of `word`; None where some part of it has no entry, or it is too long."""
        length = len(word)
        if length > self._max_chars:
            return None
        found = []
        start, entries = 0, self._first
        while start < length:
            match, end = BEGINNING, start
            for stop in range(start + 1, length + 1):
                index = entries.get(word[start:stop])
                if index is None:
                    break
                if index != BEGINNING:
                    match, end = index, stop
            if match == BEGINNING:
                return None
            found.append(match)
            start, entries = end, self._further
        return found


def _with_beginnings(ids: dict[str, int]) -> dict[str, int]:
    """`{"abc": 7}` -> `{"abc": 7, "a": BEGINNING, "ab": BEGINNING}`."""
    table = dict(ids)
    for entry in ids:
        for stop in range(1, len(entry)):
            table.setdefault(entry[:stop], BEGINNING)
    return table


class WordCache(dict):
    """Word -> number of its entry in flat arrays; a word not met before is encoded by `encode_word` and kept.

    Args:
        encode_word: word -> its ids, and the surface pieces of it that have no entry.
    """

    def __init__(self, encode_word: Callable[[str], tuple[list[int], list[str]]]):
        super().__init__()
        self._encode_word = encode_word
        self._start_anew()

    def _start_anew(self) -> None:
        self.clear()
        self._chars = 0
        self._ids = array("i")
        self._starts = array("q")
        self._counts = array("q")
        self._has_unknown = array("b")
        self._unknown: dict[int, list[str]] = {}

    def __missing__(self, word: str) -> int:
        ids, unknown = self._encode_word(word)
        number = self[word] = len(self._starts)
        self._starts.append(len(self._ids))
        self._counts.append(len(ids))
        self._ids.extend(ids)
        self._chars += len(word)
        self._has_unknown.append(bool(unknown))
        if unknown:
            self._unknown[number] = unknown
        return number

    def look_up(self, words: list[str], unknown: Counter | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Encode many words.

        Returns:
            starts, counts: int64 (words,); flat: int32, word i has the ids `flat[starts[i]:starts[i] + counts[i]]`.
            `flat` is a view: words can be added only after it is let go.
        """
        if len(self) > CACHED_WORDS or self._chars > CACHED_CHARS:
            self._start_anew()
        numbers = np.fromiter(map(self.__getitem__, words), np.intp, len(words))
        if unknown is not None and self._unknown:
            self._count_unknown(numbers, unknown)
        starts, counts = np.frombuffer(self._starts, np.int64), np.frombuffer(self._counts, np.int64)
        return starts[numbers], counts[numbers], np.frombuffer(self._ids, np.int32)

    def _count_unknown(self, numbers: np.ndarray, unknown: Counter) -> None:
        listed = numbers[np.frombuffer(self._has_unknown, np.int8)[numbers] > 0]
        for number, count in zip(*(part.tolist() for part in np.unique(listed, return_counts=True))):
            for surface in self._unknown[number]:
                unknown[surface] += count
