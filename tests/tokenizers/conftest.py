"""BERT's tokenization in plain Python, word by word as Google's description goes: slow, and easy to check by eye."""

import unicodedata
from collections.abc import Callable

import pytest

IDEOGRAPHS = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
              (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))


@pytest.fixture(scope="session")
def reference_encode() -> Callable[..., list[int]]:
    """`encode` below."""
    return encode


@pytest.fixture(scope="session")
def reference_words() -> Callable[..., list[str]]:
    """`basic_tokens` below."""
    return basic_tokens


def basic_tokens(text: str, lower: bool) -> list[str]:
    """Words and signs, before WordPiece."""
    spaced = "".join(_clean(char) for char in text)
    tokens = []
    for word in spaced.split():
        if lower:
            word = unicodedata.normalize("NFD", word.lower())
            word = "".join(char for char in word if unicodedata.category(char) != "Mn")
        tokens += "".join(f" {char} " if _is_punctuation(char) else char for char in word).split(" ")
    return [token for token in tokens if token]


def encode(text: str, ids: dict[str, int], lower: bool, max_chars: int = 200, unk: str = "[UNK]") -> list[int]:
    """Ids of one line."""
    found = []
    for token in basic_tokens(text, lower):
        found += _wordpiece(token, ids, max_chars) or [ids[unk]]
    return found


def _clean(char: str) -> str:
    category = unicodedata.category(char)
    if char in "\t\n\r" or category == "Zs":
        return " "
    if char == "\ufffd" or category in ("Cc", "Cf", "Cs"):
        return ""
    return f" {char} " if any(low <= ord(char) <= high for low, high in IDEOGRAPHS) else char


def _is_punctuation(char: str) -> bool:
    return char in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~" or unicodedata.category(char).startswith("P")


def _wordpiece(word: str, ids: dict[str, int], max_chars: int) -> list[int]:
    if len(word) > max_chars:
        return []
    found: list[int] = []
    while word:
        prefix = "##" if found else ""
        longest = next((stop for stop in range(len(word), 0, -1) if prefix + word[:stop] in ids), 0)
        if not longest:
            return []
        found.append(ids[prefix + word[:longest]])
        word = word[longest:]
    return found
