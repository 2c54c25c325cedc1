"""A stand-in for the package `sentencepiece` where it is not installed: pieces by longest match, a small part of its
interface. Models of the one cannot be read by the other."""

import json
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from typing import Any

MARK = b"stand-in\n"


class SentencePieceTrainer:
    """Characters and words with a space before them become the pieces."""

    @staticmethod
    def train(sentence_iterator: Iterator[str], model_writer: Any, user_defined_symbols: str = "",
              **settings: Any) -> None:
        text = " ".join(sentence_iterator)
        pieces = ["<unk>", "<s>", "</s>", *filter(None, user_defined_symbols.split(",")), "▁", *text.replace(" ", ""),
                  *(f"▁{word}" for word in text.split() if len(word) > 1 and word.isascii() and word.isalpha())]
        model_writer.write(MARK + json.dumps(list(dict.fromkeys(pieces))).encode())


class SentencePieceProcessor:
    """Reads what the trainer wrote."""

    def __init__(self, model_proto: bytes):
        if not model_proto.startswith(MARK):
            raise RuntimeError("not a model of the stand-in")
        self._pieces = json.loads(model_proto.removeprefix(MARK))
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}
        self._usable = set(self._pieces[3:])
        self._longest = max(map(len, self._pieces))

    def get_piece_size(self) -> int:
        return len(self._pieces)

    def id_to_piece(self, ids: list[int]) -> list[str]:
        return [self._pieces[index] for index in ids]

    def piece_to_id(self, piece: str) -> int:
        return self._ids.get(piece, 0)

    def unk_id(self) -> int:
        return 0

    def encode(self, text: str | list[str], out_type: type = int, num_threads: int = 1) -> list:
        if isinstance(text, list):
            return [self.encode(line, out_type) for line in text]
        words = unicodedata.normalize("NFKC", text).replace("\0", "").split()
        pieces = [piece for word in words for piece in self._pieces_of(f"▁{word}")]
        return pieces if out_type is str else [self._ids[piece] if piece in self._usable else 0 for piece in pieces]

    def _pieces_of(self, word: str) -> list[str]:
        """Longest matches; neighbouring characters without a piece are one."""
        found, start = [], 0
        while start < len(word):
            stop = next((stop for stop in range(min(len(word), start + self._longest), start, -1)
                         if word[start:stop] in self._usable), start + 1)
            found.append(word[start:stop])
            start = stop
        return [part for known, group in groupby(found, self._usable.__contains__)
                for part in (group if known else ["".join(group)])]
