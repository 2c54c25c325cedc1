"""Answers cut from texts: pieces with their places, and CMRC 2018's exact match and F1."""

import re
import unicodedata

IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
# A run of word characters that are no ideographs, or any other single character that is no space.
PIECE = re.compile(rf"(?:(?![{IDEOGRAPHS}_])\w)+|\S")


def split_pieces(text: str) -> list[tuple[int, int]]:
    """Places of the pieces that a BERT tokenizer never joins.

    >>> [("1998年 in"[start:stop]) for start, stop in split_pieces("1998年 in")]
    ['1998', '年', 'in']
    """
    return [match.span() for match in PIECE.finditer(text)]


def normalise(text: str) -> list[str]:
    """Lower-case pieces without punctuation: what answers are compared by."""
    lowered = text.lower()
    pieces = [lowered[start:stop] for start, stop in split_pieces(lowered)]
    return [piece for piece in pieces if not unicodedata.category(piece[0]).startswith(("P", "S", "C"))]


def exact_match(answer: str, right: str) -> float:
    """1 where both are the same but for case, spaces and punctuation."""
    return float("".join(normalise(answer)) == "".join(normalise(right)))


def f1_score(answer: str, right: str) -> float:
    """CMRC's F1: precision and recall of the longest run of pieces that both have."""
    ours, theirs = normalise(answer), normalise(right)
    common = longest_common_run(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def longest_common_run(left: list[str], right: list[str]) -> int:
    """How many pieces the longest run has that stands in both.

    >>> longest_common_run(list("abcd"), list("xbcd"))
    3
    """
    best, before = 0, [0] * (len(right) + 1)
    for piece in left:
        row = [0] * (len(right) + 1)
        for at, other in enumerate(right, start=1):
            if piece == other:
                row[at] = before[at - 1] + 1
                best = max(best, row[at])
        before = row
    return best
