"""Words to ids: greedy longest-match WordPiece, remembered word by word."""

from array import array
from collections import Counter
from collections.abc import Callable

import numpy as np

CACHED_WORDS = 1 << 17  # the memory of words is emptied beyond this many of them,
CACHED_CHARS = 1 << 22  # or this many characters


def wordpiece(word: str, ids: dict[str, int], max_chars: int = 200) -> list[int] | None:
    """Greedy longest match from the left: `"tokens"` -> ids of `"to", "##ken", "##s"`.

    Returns:
        The ids; None where some part has no entry or the word is longer than `max_chars`.
    """
    whole = ids.get(word)
    if whole is not None and len(word) <= max_chars:
        return [whole]
    if len(word) > max_chars:
        return None
    found = []
    start, prefix = 0, ""
    while start < len(word):
        for stop in range(len(word), start, -1):
            index = ids.get(prefix + word[start:stop])
            if index is not None:
                break
        else:
            return None
        found.append(index)
        start, prefix = stop, "##"
    return found


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
        self._unknown: dict[int, list[str]] = {}

    def __missing__(self, word: str) -> int:
        ids, unknown = self._encode_word(word)
        number = self[word] = len(self._starts)
        self._starts.append(len(self._ids))
        self._counts.append(len(ids))
        self._ids.extend(ids)
        self._chars += len(word)
        if unknown:
            self._unknown[number] = unknown
        return number

    def look_up(self, words: list[str], unknown: Counter | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Encode many words.

        Returns:
            starts, counts: int64 (words,); flat: int32, word i has the ids `flat[starts[i]:starts[i] + counts[i]]`.
        """
        if len(self) > CACHED_WORDS or self._chars > CACHED_CHARS:
            self._start_anew()
        numbers = np.fromiter(map(self.__getitem__, words), np.intp, len(words))
        if unknown is not None and self._unknown:
            self._count_unknown(numbers, unknown)
        flat = np.array(self._ids, dtype=np.int32)
        return np.array(self._starts)[numbers], np.array(self._counts)[numbers], flat

    def _count_unknown(self, numbers: np.ndarray, unknown: Counter) -> None:
        occurrences = np.bincount(numbers, minlength=len(self._starts))
        listed = np.fromiter(self._unknown, np.intp, len(self._unknown))
        for number in listed[occurrences[listed] > 0].tolist():
            for surface in self._unknown[number]:
                unknown[surface] += int(occurrences[number])
