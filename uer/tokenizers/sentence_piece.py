"""SentencePiece models, by the package `sentencepiece`: with the model's own ids, or with those of XLM-R.

A model's file holds pieces, their scores and rules that replace characters; "▁" stands for a space before a piece. As
in UER-py (whose rule is ALBERT's), a piece that ends in a digit and a comma is divided: "▁5," -> "▁", "5", ",".
"""

import base64
import binascii
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from uer.config import TokenizerConfig
from uer.errors import UserError
from uer.reading import read_bytes
from uer.tokenizers.base import IDEOGRAPH, Tokenizer
from uer.tokenizers.fetch import ensure_vocab
from uer.tokenizers.vocab import ROBERTA_SPECIAL_TOKENS, Vocab, named_roles

SPACE = "▁"
FIRST_OF_XLM_R = ("<s>", "<pad>", "</s>", "<unk>")  # its ids 0 to 3; the model's own ids of these are passed over
NUMBER_COMMA = re.compile(r".*\d,", re.DOTALL)


class SentencePieceTokenizer(Tokenizer):
    """Pieces with the ids of their model, `--tokenizer bert` with `--spm_model_path`; case is kept.

    Args:
        vocab: the entries, `entries(model)` among them.
        model: the content of the model's file.
    """

    kind = "bert"
    line_cuts = re.compile(rb" (?=[!-~]|" + IDEOGRAPH + rb")")
    finds_words = False

    def __init__(self, vocab: Vocab, model: bytes):
        """Raises UserError where the package is missing, or `model` is no SentencePiece model."""
        super().__init__(vocab, False)
        self._model = model
        self._processor = open_model(model, vocab.source)
        pieces = pieces_of(self._processor)
        self._unk_id = vocab.unk_id
        self._ids = np.array([vocab.ids.get(piece, self._unk_id) for piece in pieces], np.int64)  # (pieces,)
        self._ids[self._processor.unk_id()] = self._unk_id
        self._divided = {index: self._divide(pieces[index]) for index in range(len(pieces))
                         if NUMBER_COMMA.fullmatch(pieces[index])}
        self._is_divided = np.zeros(len(pieces), bool)
        self._is_divided[list(self._divided)] = True
        if not self._cuts_at_spaces(pieces):
            self.line_cuts = re.compile(b"(?!)")

    @classmethod
    def from_config(cls, config: TokenizerConfig, side: str = "src") -> "SentencePieceTokenizer":
        own, prefix = config.of_side(side), "" if side == "src" else f"{side}_"
        if not own.spm_model_path:
            raise UserError(f"--{prefix}spm_model_path is required for --{prefix}tokenizer {cls.kind}")
        path = ensure_vocab(own.spm_model_path)
        model = read_bytes(path)
        found = cls.entries(pieces_of(open_model(model, str(path))))
        roles = named_roles(found, path, own.special_tokens_map, cls.default_special_tokens)
        return cls(Vocab(found, roles, str(path), cls.default_special_tokens), model)

    @staticmethod
    def entries(pieces: Sequence[str]) -> list[str]:
        """The vocabulary, in the order of its ids: the model's pieces."""
        return list(pieces)

    @property
    def settings(self) -> dict[str, str]:
        return {"kind": self.kind, "spm_sha256": hashlib.sha256(self._model).hexdigest()}

    def saved_settings(self) -> dict[str, Any]:
        return {"do_lower_case": False, "spm_model": base64.b64encode(self._model).decode()}

    @classmethod
    def from_saved(cls, vocab: Vocab, saved: Mapping[str, Any]) -> "SentencePieceTokenizer":
        try:
            return cls(vocab, base64.b64decode(saved["spm_model"]))
        except binascii.Error:
            raise UserError(f"{vocab.source}: the SentencePiece model is damaged") from None

    def _encode_block(self, block: str, unknown: Counter | None) -> tuple[np.ndarray, np.ndarray]:
        lines = block.encode(errors="replace").decode().split("\n")
        found = self._processor.encode(lines, out_type=int, num_threads=1)
        if unknown is not None:
            self._count_unknown(lines, found, unknown)
        lengths, numbers = _flat(found)
        if self._is_divided[numbers].any():
            lengths, numbers = _flat([self._with_divided(ids) for ids in found])
        return self._ids[numbers], np.cumsum(lengths[:-1])

    def _with_divided(self, ids: list[int]) -> list[int]:
        """The model's ids with those of the divided pieces, in the model's numbers."""
        if self._divided.keys().isdisjoint(ids):
            return ids
        return list(chain.from_iterable(self._divided.get(index, (index,)) for index in ids))

    def _divide(self, piece: str) -> list[int]:
        """`"▁5,"` -> the model's ids of "▁5" and ","; what is put before a text is taken off where it was not there."""
        encode, number = self._processor.encode, self._processor.piece_to_id
        parts = encode(piece[:-1].replace(SPACE, ""), out_type=str)
        if not piece.startswith(SPACE) and parts[0].startswith(SPACE):
            parts = [parts[0][1:], *parts[1:]] if len(parts[0]) > 1 else parts[1:]
        return [number(part) for part in (*parts, ",")]

    def _count_unknown(self, lines: Sequence[str], found: Sequence[list[int]], unknown: Counter) -> None:
        """Pieces as text of the lines with unknown ones."""
        unk = self._processor.unk_id()
        missing = {index for index in np.flatnonzero(self._ids == self._unk_id).tolist() if index != unk}
        for line, ids in zip(lines, found):
            if unk in ids or not missing.isdisjoint(ids):
                pieces = self._processor.encode(line, out_type=str)
                unknown.update(piece for piece, index in zip(pieces, ids) if index == unk or index in missing)

    def _cuts_at_spaces(self, pieces: Sequence[str]) -> bool:
        """Whether no piece goes on across a space, and a line's beginning is treated as what follows a space."""
        def ids(text: str) -> list[int]:
            return self._processor.encode(text, out_type=int)
        probes = (("ab", "cd"), ("北", "京"), ("1", "a"))
        return not any(SPACE in piece.lstrip(SPACE) or piece.startswith(SPACE * 2) for piece in pieces) and all(
            ids(f"{first} {second}") == ids(first) + ids(second) == ids(f"{first} ") + ids(second)
            for first, second in probes)

    def decode(self, ids: Sequence[int]) -> str:
        """The pieces one after another, "▁" as a space."""
        return "".join(self.vocab.tokens[index] for index in ids).replace(SPACE, " ").removeprefix(" ")

    def surface(self, token: str) -> str:
        """`"▁world"` -> `"world"`."""
        return token.removeprefix(SPACE)

    def covers(self, char: str) -> bool:
        """As a piece of its own, or as one that begins a word."""
        return char in self.vocab.ids or (char != "" and SPACE + char in self.vocab.ids)

    def splits_between(self, before: str, after: str) -> bool:
        """Beside a space."""
        return " " in (before, after)

    def _blocks(self, text: str) -> Iterator[str]:
        """Whole lines, of about `block_chars` or one that is longer."""
        start = 0
        while start < len(text):
            cut = text.rfind("\n", start, start + self.block_chars) + 1 or text.find("\n", start) + 1 or len(text)
            yield text[start:cut]
            start = cut


class XlmRobertaTokenizer(SentencePieceTokenizer):
    """XLM-R's numbers: `<s> <pad> </s> <unk>` are 0 to 3, the model's other pieces follow, `<mask>` is the last."""

    kind = "xlmroberta"
    default_special_tokens: ClassVar[Mapping[str, str]] = ROBERTA_SPECIAL_TOKENS

    @staticmethod
    def entries(pieces: Sequence[str]) -> list[str]:
        others = (piece for piece in pieces if piece not in (*FIRST_OF_XLM_R, ROBERTA_SPECIAL_TOKENS["mask_token"]))
        return [*FIRST_OF_XLM_R, *others, ROBERTA_SPECIAL_TOKENS["mask_token"]]


def _flat(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """`[[5, 6], [7]]` -> lengths `[2, 1]`, values `[5, 6, 7]`, both int64."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return lengths, np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))


def open_model(model: bytes, source: str) -> Any:
    """The `SentencePieceProcessor` of a model.

    Args:
        model: the content of its file.
        source: its name in messages.

    Raises:
        UserError: the package is missing, or `model` is something else.
    """
    try:
        from sentencepiece import SentencePieceProcessor  # an optional package
    except ImportError:
        raise UserError("--spm_model_path needs the package sentencepiece (pip install sentencepiece)") from None
    try:
        return SentencePieceProcessor(model_proto=model)
    except (RuntimeError, OSError, TypeError, ValueError):
        raise UserError(f"{source}: not a SentencePiece model") from None


def pieces_of(processor: Any) -> list[str]:
    """The pieces in the order of their ids."""
    return processor.id_to_piece(list(range(processor.get_piece_size())))
