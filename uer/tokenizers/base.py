"""What every tokenizer offers, and the walk through a text in blocks of bounded size."""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from uer.tokenizers.characters import is_ideograph, is_punctuation
from uer.tokenizers.vocab import Vocab

BLOCK_CHARS = 1 << 15  # characters tokenized at once: the arrays of a block stay in the processor's cache
UNKNOWN_SURFACES = 100_000  # a counter of unknown pieces is cut to its commoner half beyond this

IDEOGRAPH = rb"\xe4[\xb8-\xbf][\x80-\xbf]|[\xe5-\xe8][\x80-\xbf]{2}"  # U+4E00 to U+8FFF in UTF-8

# Punctuation across which Python looks when it decides whether a capital sigma ends its word. A long line is cut behind
# one of these only where a whole block has no other separator.
CASE_IGNORABLE = frozenset("'.:^`\u00b7\u0387\u055f\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a")


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id: 65536 -> uint16, 65537 -> uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class Tokenizer(ABC):
    """Text to ids and back.

    A kind says how text is cut into blocks and how a block is encoded. No kind adds [CLS] or [SEP].

    Attributes:
        kind: its name on the command line.
        line_cuts: matches in UTF-8 bytes; right behind a match a long line can be cut without changing its tokens.
        vocab: the entries.
        do_lower_case: whether letters lose case and accents.
        dtype: of the ids.
    """

    kind: ClassVar[str]
    line_cuts: ClassVar[re.Pattern[bytes]]

    def __init__(self, vocab: Vocab, do_lower_case: bool = True):
        self.vocab = vocab
        self.do_lower_case = do_lower_case
        self.dtype = token_dtype(len(vocab))

    @property
    def settings(self) -> dict[str, str]:
        """What must be equal, beside the vocabulary, for two tokenizers to give equal ids."""
        return {"kind": self.kind, "do_lower_case": str(self.do_lower_case).lower()}

    @abstractmethod
    def _encode_block(self, block: str, unknown: Counter | None) -> tuple[np.ndarray, np.ndarray]:
        """Ids of `block`, and for each of its line feeds how many ids stand before it."""

    @abstractmethod
    def _blocks(self, text: str) -> Iterator[str]:
        """`text` in pieces of bounded size that can be encoded one by one."""

    @abstractmethod
    def splits_between(self, before: str, after: str) -> bool:
        """Whether tokens never reach across these two neighbouring characters, whatever stands around them."""

    def encode_lines(self, text: str, unknown: Counter | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize many lines at once: `"北京\\n\\n东"` -> ids `[1266, 776, 691]`, offsets `[0, 2, 2, 3]`.

        Memory beyond the text and the ids is bounded, whatever the length of text or line.

        Args:
            text: lines joined by "\\n" (no other character separates lines); one "\\n" at the end is tolerated.
            unknown: counts the surface pieces that became [UNK]; its rarer half is dropped when it grows large.

        Returns:
            ids: uint16, or uint32 where the vocabulary has over 65,536 entries; (tokens,).
            offsets: int64, (lines + 1,); line i has `ids[offsets[i]:offsets[i + 1]]`.
        """
        id_parts: list[np.ndarray] = []
        offset_parts = [np.zeros(1, np.int64)]
        total = 0
        for block in self._blocks(text):
            ids, line_ends = self._encode_block(block, unknown)
            offset_parts.append(line_ends + total)
            id_parts.append(ids.astype(self.dtype))
            total += len(ids)
            if unknown is not None and len(unknown) > UNKNOWN_SURFACES:
                _keep_commonest(unknown, UNKNOWN_SURFACES // 2)
        if text and not text.endswith("\n"):
            offset_parts.append(np.array([total], np.int64))
        return np.concatenate(id_parts or [np.empty(0, self.dtype)]), np.concatenate(offset_parts)

    def encode(self, text: str) -> list[int]:
        """Ids of one text, line feeds being spaces: `"北京"` -> `[1266, 776]`."""
        return self.encode_lines(text.replace("\n", " "))[0].tolist()

    def tokenize(self, text: str) -> list[str]:
        """The entries of one text: `"Tokens 北京"` -> `["to", "##ken", "##s", "北", "京"]`."""
        return [self.vocab.tokens[index] for index in self.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text from ids, as near as the tokens allow: `##` pieces are joined, Chinese is written without spaces."""
        text = ""
        for token in (self.vocab.tokens[index] for index in ids):
            if token.startswith("##") and len(token) > 2 and text:
                text += token[2:]
            elif text and _is_word_end(text[-1]) and _is_word_end(token[0]):
                text += " " + token
            else:
                text += token
        return text


class WordTokenizer(Tokenizer):
    """A tokenizer for which some characters separate words: a long line can be cut there."""

    def _blocks(self, text: str) -> Iterator[str]:
        """`text` in pieces of about `BLOCK_CHARS`, cut after line feeds, or in a long line where no word is.

        A word that is longer than a block is carried along, shortened, until it ends.
        """
        start = 0
        carry = ""
        while len(text) - start > BLOCK_CHARS:
            stop = start + BLOCK_CHARS
            cut = text.rfind("\n", start, stop) + 1 or self._cut_in_line(text, start, stop)
            if cut:
                yield carry + text[start:cut]
                carry = ""
            else:
                carry = self._shorten(carry + text[start:stop])
            start = cut or stop
        if carry or start < len(text):
            yield carry + text[start:]

    def _cut_in_line(self, text: str, start: int, stop: int) -> int:
        """The last place in `text[start:stop]` right behind a character that separates words; 0 where there is none."""
        for first in (max(start, stop - 512), start):
            chars = {char for char in set(text[first:stop]) if self._separates(char)}
            if chars - CASE_IGNORABLE:
                return max(text.rfind(char, first, stop) for char in chars - CASE_IGNORABLE) + 1
        return max((text.rfind(char, start, stop) for char in chars), default=-1) + 1

    def splits_between(self, before: str, after: str) -> bool:
        """Where one of them is a separator."""
        return self._separates(before) or self._separates(after)

    @abstractmethod
    def _separates(self, char: str) -> bool:
        """Whether no token goes on across `char`."""

    @abstractmethod
    def _shorten(self, word: str) -> str:
        """The beginning of a word that is longer than a block; the word's ids stay the same with any end."""


def _is_word_end(char: str) -> bool:
    return not (is_ideograph(char) or is_punctuation(char))


def _keep_commonest(counter: Counter, size: int) -> None:
    kept = counter.most_common(size)
    counter.clear()
    counter.update(dict(kept))
