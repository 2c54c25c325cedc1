"""Exact match and F1 of answers, as CMRC 2018 defines them, and the split of a text into pieces that they compare."""

import re
import unicodedata
from difflib import SequenceMatcher

IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
# Word characters in a row that are not ideographs, or any other single character that is not a space.
PIECE = re.compile(rf"(?:(?![{IDEOGRAPHS}_])\w)+|\S")


def split_pieces(text: str) -> list[tuple[int, int]]:
    """(start, stop) of the pieces of a text that a BERT tokenizer never joins: ideographs, words, punctuation.

    >>> [("1998年 in"[start:stop]) for start, stop in split_pieces("1998年 in")]
    ['1998', '年', 'in']
    """
    return [match.span() for match in PIECE.finditer(text)]


def normalise(text: str) -> list[str]:
    """The pieces of a text in lower case, without punctuation; answers are compared by these.

    >>> normalise("《北京》 City")
    ['北', '京', 'city']
    """
    lowered = text.lower()
    pieces = [lowered[start:stop] for start, stop in split_pieces(lowered)]
    return [piece for piece in pieces if not unicodedata.category(piece[0]).startswith(("P", "S", "C"))]


def exact_match(answer: str, gold: str) -> float:
    """1.0 if both are equal apart from case, spaces and punctuation, else 0.0."""
    return float("".join(normalise(answer)) == "".join(normalise(gold)))


def f1_score(answer: str, gold: str) -> float:
    """CMRC's F1: precision and recall count the pieces of the longest common substring.

    >>> f1_score("在北京市", "北京")  # 2 of 4 and 2 of 2 pieces
    0.6666666666666666
    """
    found, wanted = normalise(answer), normalise(gold)
    common = longest_common_substring(found, wanted)
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


def longest_common_substring(left: list[str], right: list[str]) -> int:
    """The number of pieces in the longest sequence of consecutive pieces that both have.

    >>> longest_common_substring(list("abcd"), list("xbcd"))
    3
    """
    return SequenceMatcher(None, left, right, autojunk=False).find_longest_match().size
