"""GPT-2's byte-level BPE, by Hugging Face's Rust library `tokenizers`, for whole blocks of text at once.

The bytes of a text are written as 256 printable characters ("Ġ" is the space, "Ċ" the line feed); runs of letters,
digits and signs are then joined pair by pair, in the order of the merges file. Case and spaces are kept.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from uer.config import TokenizerConfig
from uer.errors import UserError
from uer.reading import read_bytes
from uer.tokenizers.base import IDEOGRAPH, Tokenizer
from uer.tokenizers.fetch import ensure_vocab
from uer.tokenizers.vocab import (
    ROBERTA_SPECIAL_TOKENS,
    TOKENIZER_JSON,
    Vocab,
    described_tokenizer,
    named_roles,
    read_any_entries,
)

# A line can be cut after a letter or digit, before a sign or before a space that a letter or digit follows; and after
# an ideographic comma or full stop, before an ideograph.
STOP = rb"\xe3\x80[\x81\x82]|\xef\xbc\x8c"  # U+3001, U+3002, U+FF0C
LETTER, SIGN = rb"(?:[0-9A-Za-z]|" + IDEOGRAPH + rb")", rb"[,.;:!?()]|" + STOP
LINE_CUTS = LETTER + rb"(?= " + LETTER + rb"|" + SIGN + rb")|(?:" + STOP + rb")(?=" + IDEOGRAPH + rb")"
# The same in text, and after a line feed.
TEXT_CUTS = re.compile(r"(?<=\n)|(?<=[\u3001\u3002\uff0c])(?=[\u4e00-\u8fff])|"
                       r"(?<=[0-9A-Za-z\u4e00-\u8fff])(?= [0-9A-Za-z\u4e00-\u8fff]|[,.;:!?()\u3001\u3002\uff0c])")
BLANK_LINES = re.compile(r"(?m)^[^\S\n]+$")
PROBE = "I'm HERE, they'LL see 12345 (x1) e\u0301 \u3000北京。东西！\t  two\n\n \r\nlines...  "
"""Tokenizers with other rules divide it otherwise."""
SPACES = re.compile(r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")  # whitespace of Unicode


def _byte_characters() -> list[str]:
    """The character that stands for each byte: itself where it is printable, else the next one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)]


BYTE_CHARACTERS = _byte_characters()
BYTES = {char: byte for byte, char in enumerate(BYTE_CHARACTERS)}
LINE_FEED = BYTE_CHARACTERS[10]


class BpeTokenizer(Tokenizer):
    """Byte-level BPE; nothing is unknown where the vocabulary has all bytes. A line of whitespace has no tokens.

    Args:
        vocab: the entries; each merge gives one of them.
        merges: pairs such as `"Ġ t"`, the first to be applied first.
    """

    kind = "bpe"
    line_cuts, text_cuts = re.compile(LINE_CUTS), TEXT_CUTS
    finds_words = False
    default_special_tokens: ClassVar[Mapping[str, str]] = {role: ROBERTA_SPECIAL_TOKENS[role] for role in (
        "pad_token", "cls_token", "sep_token")}
    further_special_tokens: ClassVar[Mapping[str, str]] = ROBERTA_SPECIAL_TOKENS

    def __init__(self, vocab: Vocab, merges: Sequence[str], source: str = "merges"):
        """Raises UserError where merges and vocabulary do not fit together, or a byte has neither entry nor [UNK]."""
        super().__init__(vocab, False)
        self.merges = list(merges)
        self._unk_id = vocab.special_ids.get("unk")
        lacking = [char for char in BYTE_CHARACTERS if char not in vocab.ids]
        if LINE_FEED in lacking:
            raise UserError(f"{vocab.source}: no entry '{LINE_FEED}', the line feed of a byte-level BPE vocabulary")
        if lacking and self._unk_id is None:
            raise UserError(f"{vocab.source}: no entry for {len(lacking)} of the 256 bytes, '{lacking[0]}' for "
                            "instance, and no unk token for them")
        self._line_feed_id = vocab.ids[LINE_FEED]
        self._encoder = _encoder(vocab, self.merges, source)
        self.set_rules(self._encoder)
        # without positions in the text, where the library's version has it
        self._encode_lines = getattr(self._encoder, "encode_batch_fast", self._encoder.encode_batch)

    @staticmethod
    def set_rules(encoder: Any) -> None:
        """Tell the Rust tokenizer how it normalises text, and which parts of it are joined."""
        from tokenizers import pre_tokenizers

        encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    @classmethod
    def from_config(cls, config: TokenizerConfig, side: str = "src") -> "BpeTokenizer":
        """A tokenizer.json as `--vocab_path` has the merges, too."""
        own, prefix = config.of_side(side), "" if side == "src" else f"{side}_"
        whole = own.vocab_path if Path(own.vocab_path or "").name == TOKENIZER_JSON else None
        given = {"vocab_path": own.vocab_path, "merges_path": own.merges_path or whole}
        for name, value in given.items():
            if not value:
                raise UserError(f"--{prefix}{name} is required for --{prefix}tokenizer {cls.kind}")
        path, merges = map(ensure_vocab, given.values())
        for file in {path, merges}:
            if file.name == TOKENIZER_JSON and not cls.divides_as(file):
                raise UserError(f"{file}: divides text otherwise than --{prefix}tokenizer {cls.kind}")
        entries = read_any_entries(path)
        roles = named_roles(entries, path, own.special_tokens_map, cls.further_special_tokens)
        vocab = Vocab(entries, without_shared_unk(roles), str(path), cls.default_special_tokens)
        return cls(vocab, read_merges(merges), str(merges))

    @classmethod
    def divides_as(cls, path: Path) -> bool:
        """Whether a tokenizer.json normalises and divides a text as this tokenizer does, before pieces are joined.

        Raises:
            UserError: it is no such file.
        """
        from tokenizers import Tokenizer as RustTokenizer
        from tokenizers import models

        ours = RustTokenizer(models.BPE())
        cls.set_rules(ours)
        try:
            theirs = RustTokenizer.from_file(str(path))
        except Exception as error:  # the library has no class of its own for it
            raise UserError(f"{path}: not a tokenizer.json: {error}") from None
        return _divided(theirs) == _divided(ours)

    @property
    def settings(self) -> dict[str, str]:
        return {"kind": self.kind, "merges_sha256": hashlib.sha256("\n".join(self.merges).encode()).hexdigest()}

    def saved_settings(self) -> dict[str, Any]:
        return {"do_lower_case": False, "merges": self.merges}

    @classmethod
    def from_saved(cls, vocab: Vocab, saved: Mapping[str, Any]) -> "BpeTokenizer":
        return cls(vocab, saved["merges"], vocab.source)

    @property
    def line_end(self) -> int:
        """The line feed's token, "Ċ"."""
        return self._line_feed_id

    def encode(self, text: str) -> list[int]:
        """Ids of one text as it stands; line feeds are tokens: `"a\\nb"` -> ids of `["a", "Ċ", "b"]`."""
        return self._encoder.encode(text.encode(errors="replace").decode(), add_special_tokens=False).ids

    def _encode_block(self, block: str, unknown: Counter | None) -> tuple[np.ndarray, np.ndarray]:
        lines = BLANK_LINES.sub("", block.encode(errors="replace").decode()).split("\n")
        found = [encoding.ids for encoding in self._encode_lines(lines, add_special_tokens=False)]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        ids = np.fromiter(chain.from_iterable(found), np.int64, int(lengths.sum()))
        if unknown is not None and self._unk_id is not None and (ids == self._unk_id).any():
            for line in (line for line, own in zip(lines, found) if self._unk_id in own):
                self._count_unknown(line, unknown)
        return ids, np.cumsum(lengths[:-1])

    def _count_unknown(self, line: str, unknown: Counter) -> None:
        """By the characters whose bytes have no entry."""
        encoding = self._encoder.encode(line, add_special_tokens=False)
        unknown.update(line[slice(*span)] for index, span in zip(encoding.ids, encoding.offsets)
                       if index == self._unk_id)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the bytes; those that are no UTF-8, at either end for instance, become U+FFFD."""
        return b"".join(_bytes_of(self.vocab.tokens[index]) for index in ids).decode(errors="replace")

    def surface(self, token: str) -> str:
        """`"Ġworld"` -> `"world"`; bytes of a part of a character -> U+FFFD."""
        return _bytes_of(token).decode(errors="replace").strip()

    def covers(self, char: str) -> bool:
        """Whether each of its bytes has an entry."""
        return char != "" and all(BYTE_CHARACTERS[byte] in self.vocab.ids for byte in char.encode(errors="replace"))

    def splits_between(self, before: str, after: str) -> bool:
        """Between letters, digits and signs, and before a space; but "'s" and the like are tokens."""
        if SPACES.match(before) or before == "'":
            return False
        return SPACES.match(after) is not None or class_of(before) != class_of(after)

    def _blocks(self, text: str) -> Iterator[str]:
        """Blocks of about `block_chars`; longer only where a line has no position where it can be cut."""
        start = 0
        while start < len(text):
            cut = self.text_cuts.search(text, start + self.block_chars)
            stop = cut.start() if cut else len(text)
            yield text[start:stop]
            start = stop


def read_merges(path: Path) -> list[str]:
    """The pairs of a merges file, without its first line `#version`, where it has one; or those of a tokenizer.json.

    Raises:
        UserError: the file cannot be read, or a line is no pair.
    """
    if path.suffix == ".json":
        return _pairs_of_json(path)
    lines = read_bytes(path).decode("utf-8-sig", "replace").replace("\r\n", "\n").split("\n")
    merges = lines[lines[0].startswith("#version"):]
    for number, pair in enumerate(merges, 1 + len(lines) - len(merges)):
        if pair and len(pair.split(" ")) != 2:
            raise UserError(f"{path}, line {number}: {pair[:40]!r} is no pair of entries")
    return [pair for pair in merges if pair]


def _pairs_of_json(path: Path) -> list[str]:
    """The pairs of a tokenizer.json: ["Ġ t", ...] or, as later versions write them, [["Ġ", "t"], ...]."""
    model = described_tokenizer(path).get("model")
    merges = model.get("merges") if isinstance(model, dict) else None
    try:
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
        return [f"{first} {second}" for first, second in pairs]
    except (TypeError, ValueError):
        raise UserError(f"{path}: holds no merges of BPE") from None


def without_shared_unk(roles: Mapping[str, str]) -> dict[str, str]:
    """The roles; unk only where its entry has no other, because bytes are seldom unknown and GPT-2's <|endoftext|> has
    all roles."""
    others = {entry for role, entry in roles.items() if role != "unk_token"}
    return {role: entry for role, entry in roles.items() if role != "unk_token" or entry not in others}


def _divided(encoder: Any) -> list[str]:
    """The parts of `PROBE` that a Rust tokenizer normalises and encodes one by one."""
    text = encoder.normalizer.normalize_str(PROBE) if encoder.normalizer else PROBE
    return [part for part, _ in encoder.pre_tokenizer.pre_tokenize_str(text)] if encoder.pre_tokenizer else [text]


def _encoder(vocab: Vocab, merges: Sequence[str], source: str) -> Any:
    """The Rust tokenizer, without rules; threads are left to the processes of preprocess.py."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer as RustTokenizer  # imported here, because only this tokenizer needs it
    from tokenizers import models
    try:
        model = models.BPE(vocab.ids, [tuple(pair.split(" ")) for pair in merges],
                           unk_token=vocab.special_tokens.get("unk_token"))
    except Exception as error:  # the library has no class of its own for it
        raise UserError(f"{source}: does not fit the vocabulary {vocab.source}: {error}") from None
    return RustTokenizer(model)


def _bytes_of(token: str) -> bytes:
    """The bytes that an entry stands for; an entry of other characters, such as `<|中|>`, stands for itself."""
    if all(char in BYTES for char in token):
        return bytes(BYTES[char] for char in token)
    return token.encode()


def class_of(char: str) -> str:
    """How GPT-2's pattern classes a character that is no space: "L" letter, "N" digit, "" anything else."""
    category = unicodedata.category(char)[0]
    return category if category in "LN" else ""
