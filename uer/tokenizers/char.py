"""Every character of a line is a token."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from uer.tokenizers.base import IDEOGRAPH, Tokenizer
from uer.tokenizers.vocab import Vocab

UNSEEN = -1


class CharTokenizer(Tokenizer):
    """A line without the whitespace at its ends, one token a character; `do_lower_case` has no effect."""

    kind = "char"
    # a line's ends lose their whitespace, so a cut has a character that is none on both sides
    line_cuts = re.compile(rb"(?:[0-9A-Za-z]|" + IDEOGRAPH + rb")(?=[0-9A-Za-z\xe5-\xe8])")

    def __init__(self, vocab: Vocab, do_lower_case: bool = False):
        super().__init__(vocab, False)
        self._unk_id = vocab.unk_id
        self._codes = np.full(0x110000, UNSEEN, np.int32)

    def _encode_block(self, block: str, unknown: Counter | None) -> tuple[np.ndarray, np.ndarray]:
        points = np.frombuffer(block.encode("utf-32-le", "surrogatepass"), "<u4")
        ids = self._codes.take(points)
        if ids.size and ids.min() == UNSEEN:
            for point in np.unique(points[ids == UNSEEN]).tolist():
                self._codes[point] = self.vocab.ids.get(chr(point), self._unk_id)
            ids = self._codes.take(points)
        is_newline = points == 10
        line_ends = np.flatnonzero(is_newline)
        if unknown is not None:
            missing = points[(ids == self._unk_id) & ~is_newline]
            for point, count in zip(*(part.tolist() for part in np.unique(missing, return_counts=True))):
                unknown[chr(point)] += count
        return ids[~is_newline], line_ends - np.arange(len(line_ends))

    def decode(self, ids: Sequence[int]) -> str:
        """The entries one after another; spaces are tokens."""
        return "".join(self.vocab.tokens[index] for index in ids)

    def splits_between(self, before: str, after: str) -> bool:
        """Everywhere."""
        return True

    def _blocks(self, text: str) -> Iterator[str]:
        """Blocks of stripped lines; a long line in pieces."""
        start = 0
        while start < len(text):
            cut = text.rfind("\n", start, start + self.block_chars) + 1 or text.find("\n", start) + 1 or len(text)
            block = "\n".join(map(str.strip, text[start:cut].split("\n")))
            for first in range(0, len(block), self.block_chars):
                yield block[first:first + self.block_chars]
            start = cut
