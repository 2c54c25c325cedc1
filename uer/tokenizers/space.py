"""Tokens are what stands between whitespace."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from uer.tokenizers.base import WordTokenizer
from uer.tokenizers.vocab import Vocab
from uer.tokenizers.words import WordCache


class SpaceTokenizer(WordTokenizer):
    """Already segmented text; a word without an entry is [UNK]; `do_lower_case` has no effect."""

    kind = "space"
    line_cuts = re.compile(rb"[ \t]")

    def __init__(self, vocab: Vocab, do_lower_case: bool = False):
        super().__init__(vocab, False)
        self._unk_id = vocab.unk_id
        self._words = WordCache(self._encode_word)
        self._longest = max(map(len, vocab.tokens))

    def _encode_block(self, block: str, unknown: Counter | None) -> tuple[np.ndarray, np.ndarray]:
        lines = [line.split() for line in block.split("\n")]
        starts, _, flat = self._words.look_up([word for line in lines for word in line], unknown)
        return flat[starts], np.cumsum([len(line) for line in lines[:-1]], dtype=np.int64)

    def _encode_word(self, word: str) -> tuple[list[int], list[str]]:
        found = self.vocab.ids.get(word)
        return ([self._unk_id], [word]) if found is None else ([found], [])

    def decode(self, ids: Sequence[int]) -> str:
        """The entries, joined by spaces."""
        return " ".join(self.vocab.tokens[index] for index in ids)

    def _separates(self, char: str) -> bool:
        return char.isspace()

    def _shorten(self, word: str) -> str:
        return word[:self._longest + 1]
