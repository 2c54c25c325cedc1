"""What every `--tokenizer` is, and how a text of any length is encoded in blocks of bounded size.

    text "Tokens\\n北京\\n"   ->  encode_lines  ->  ids [8228 8844 8118 1266 776], offsets [0 3 5]
    ids [8228 8844 8118]  ->  decode        ->  text "tokens"

A new tokenizer is one file with one class, one line in `uer.tokenizers` and one entry in tests/contract. The class
gives `kind`, `line_cuts`, `_blocks`, `_encode_block`, `splits_between` and `decode`; where its entries are pieces of
words, `continues`, `surface` and `covers`; where it reads more than a vocabulary, `config_class`, `from_config`,
`settings`, `saved_settings` and `from_saved`.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from uer.config import TokenizerConfig
from uer.errors import UserError
from uer.tokenizers.fetch import ensure_vocab
from uer.tokenizers.vocab import BERT_SPECIAL_TOKENS, Vocab, holds_merges

UNKNOWN_SURFACES = 100_000  # a counter of unknown pieces is cut to its commoner half beyond this

IDEOGRAPH = rb"\xe4[\xb8-\xbf][\x80-\xbf]|[\xe5-\xe8][\x80-\xbf]{2}"  # U+4E00 to U+8FFF in UTF-8

# Python looks across these when it decides whether a capital sigma ends its word. A long line is cut after one of them
# only where a whole block has no other separator.
CASE_IGNORABLE = frozenset("'.:^`\u00b7\u0387\u055f\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a")


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id: 65536 -> uint16, 65537 -> uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class Tokenizer(ABC):
    """Text to ids and back.

    No tokenizer adds [CLS] or [SEP]: processors and tasks do. A text that names a special entry, such as "[MASK]", is
    encoded like any other text.

    Attributes:
        vocab: the entries.
        do_lower_case: whether letters lose case and accents.
        dtype: of the ids, uint16 or uint32.
    """

    kind: ClassVar[str]
    """Its name on the command line."""
    line_cuts: ClassVar[re.Pattern[bytes]]
    """Matches in UTF-8 bytes. A long line can be cut after a match: the tokens of its two parts are its tokens."""
    block_chars: ClassVar[int] = 1 << 15
    """Characters that are encoded at once; the arrays of so many stay in the processor's cache."""
    finds_words: ClassVar[bool] = True
    """Whether a token stands for text of one word of Chinese, so that `--whole_word_masking` finds whole words."""
    line_end: int | None = None
    """The id of the token that ends each line of a corpus that is not blank; None where lines have no such token.
    `encode_lines` does not give it."""
    default_special_tokens: ClassVar[Mapping[str, str]] = BERT_SPECIAL_TOKENS
    """The roles that its vocabulary must have, with their entries where no `special_tokens_map.json` names others. A
    vocabulary may have further roles; see `uer.tokenizers.vocab.ROLES`."""
    config_class: ClassVar[type] = type(None)
    """The settings that only this tokenizer has, a dataclass of `uer.config.flag` fields; their flags come from it.
    It has each twice, as `<name>` for the source side and as `tgt_<name>` for the target side."""

    def __init__(self, vocab: Vocab, do_lower_case: bool = True):
        self.vocab = vocab
        self.do_lower_case = do_lower_case
        self.dtype = token_dtype(len(vocab))

    @classmethod
    def from_config(cls, config: TokenizerConfig, side: str = "src") -> "Tokenizer":
        """The tokenizer that the flags describe; a known vocabulary that is missing is fetched.

        Args:
            config: the flags.
            side: "src" reads `--vocab_path` and so on, "tgt" reads `--tgt_vocab_path` and so on.

        Raises:
            UserError: a flag is missing, or its file cannot be read or fetched, or is that of another tokenizer.
        """
        own = config.of_side(side)
        if not own.vocab_path:
            prefix = "" if side == "src" else f"{side}_"
            raise UserError(f"--{prefix}vocab_path is required for --{prefix}tokenizer {cls.kind}")
        path = ensure_vocab(own.vocab_path)
        if holds_merges(path):
            raise UserError(f"{path}: the vocabulary of a byte-level BPE, not of --tokenizer {cls.kind}: give bpe or "
                            "qwen")
        return cls(Vocab.load(path, cls.default_special_tokens, own.special_tokens_map), own.do_lower_case)

    @property
    def settings(self) -> dict[str, str]:
        """What must be equal, beside the vocabulary, for two tokenizers to give equal ids; a dataset keeps it."""
        return {"kind": self.kind, "do_lower_case": str(self.do_lower_case).lower()}

    def saved_settings(self) -> dict[str, Any]:
        """What `from_saved` needs beside the vocabulary, as plain JSON; a fine-tuned model keeps it."""
        return {"do_lower_case": self.do_lower_case}

    @classmethod
    def from_saved(cls, vocab: Vocab, saved: Mapping[str, Any]) -> "Tokenizer":
        """The tokenizer of which `saved_settings` returned `saved`; further keys are passed over.

        Raises:
            KeyError, TypeError: `saved` is something else.
        """
        return cls(vocab, saved["do_lower_case"])

    @abstractmethod
    def _encode_block(self, block: str, unknown: Counter | None) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of a block.

        Args:
            block: some characters, at least one, with line feeds between lines.
            unknown: as for `encode_lines`.

        Returns:
            ids: integers, (tokens,).
            line_ends: int64, (line feeds,); for each line feed of the block, how many ids stand before it.
        """

    @abstractmethod
    def _blocks(self, text: str) -> Iterator[str]:
        """`text` in pieces of bounded size that can be encoded one by one."""

    @abstractmethod
    def splits_between(self, before: str, after: str) -> bool:
        """Whether tokens never reach across these two neighbouring characters, whatever is around them.

        A text that is cut there has the tokens of its two parts, but for whitespace that becomes the end of a part.
        """

    def encode_lines(self, text: str, unknown: Counter | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize many lines at once: `"北京\\n\\n东"` -> ids `[1266, 776, 691]`, offsets `[0, 2, 2, 3]`.

        Each line has the ids that it has alone.

        Memory beyond the text and the ids is bounded, whatever the length of text or line.

        Args:
            text: lines joined by "\\n" (no other character separates lines); one "\\n" at the end is tolerated.
            unknown: counts the pieces of text that became [UNK]; its rarer half is dropped when it grows large.

        Returns:
            ids: `dtype`: uint16, or uint32 where the vocabulary has over 65,536 entries; (tokens,).
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

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text from ids, as near as the tokens allow: `[1266, 776]` -> `"北京"`.

        Where none of them is [UNK] and `encode` made them, encoding this text gives the same ids.
        """

    def continues(self, token: str) -> bool:
        """Whether an entry goes on with the word of the token before it."""
        return False

    def surface(self, token: str) -> str:
        """The text that an entry stands for, without what marks it as the beginning or the inside of a word."""
        return token

    def covers(self, char: str) -> bool:
        """Whether a character has an entry of its own; one without can make a whole word [UNK]."""
        return char in self.vocab.ids


class WordTokenizer(Tokenizer):
    """A tokenizer for which some characters separate words: a long line can be cut after them."""

    def _blocks(self, text: str) -> Iterator[str]:
        """`text` in pieces of about `block_chars`, cut after line feeds, or in a long line between words.

        A word that is longer than a block is shortened, and the next block begins with it.
        """
        start = 0
        carry = ""
        while len(text) - start > self.block_chars:
            stop = start + self.block_chars
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
        """The last index in `text[start:stop]` that follows a character that separates words; 0 where there is none."""
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


def _keep_commonest(counter: Counter, size: int) -> None:
    kept = counter.most_common(size)
    counter.clear()
    counter.update(dict(kept))
