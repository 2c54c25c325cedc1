"""One Hugging Face folder: configuration, weights, tokenizer."""

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from uer.convert.hugging_face_files import write_json, write_weights
from uer.convert.names import NameTable, is_tied
from uer.convert.other_tokenizers import write_byte_level, write_sentence_piece
from uer.convert.tokenizer_files import write_tokenizer
from uer.tokenizers import Tokenizer


def stored_weights(weights: Mapping[str, Tensor], table: NameTable, head: str) -> dict[str, Tensor]:
    """What model.safetensors holds: tied tensors are left out, as transformers' own files leave them out, except those
    that transformers 4 loses (`NameTable.stores_duplicates`).

    An untied output layer needs its bias under both names, because transformers 5 shares the two only together with the
    weight; so do the word embeddings of an encoder and a decoder.
    """
    if table.stores_output_layer or is_tied(weights, table, head, "hugging_face"):
        heads = [] if table.stores_output_layer else table.tied_rows(head)
        tied = {row.hugging_face for row in (*heads, *table.shared_rows())}
        stored = {name: tensor for name, tensor in weights.items() if name not in tied}
        stored |= _duplicates(stored, table) if table.stores_duplicates else {}
        return {**stored, **_cloned(stored, (row.hugging_face for row in table.tied_rows(head)))}
    return with_copies(weights, table)


def with_copies(weights: Mapping[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """The weights, and those under a second name that transformers does not share where the output layer is untied."""
    shared = _cloned(weights, (row.hugging_face for row in table.shared_rows()))
    return {**weights, **_duplicates(weights, table), **shared}


def _duplicates(weights: Mapping[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """Those of the weights that have a second name, under that name."""
    return {copy: weights[home].clone() for copy, home in table.duplicates.items() if home in weights}


def _cloned(weights: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Those of the weights that have these names, with memory of their own."""
    return {name: weights[name].clone() for name in names if name in weights}


@dataclass(frozen=True)
class TokenizerFacts:
    """The tokenizer of a model.

    Attributes:
        tokens: the vocabulary; an entry's line is its number.
        special_tokens: role -> entry, as in special_tokens_map.json.
        do_lower_case: whether text is lower-cased and its accents stripped.
        segments: whether the model has segments.
        kind: which tokenizer it is, by UER's name: "bert", "bpe", "qwen" or "xlmroberta".
        merges: those of "bpe" and "qwen".
        spm_model: the content of the SentencePiece model of "xlmroberta".
    """

    tokens: Sequence[str]
    special_tokens: Mapping[str, str]
    do_lower_case: bool
    segments: bool = True
    kind: str = "bert"
    merges: Sequence[str] = ()
    spm_model: bytes = b""

    @classmethod
    def of(cls, tokenizer: Tokenizer, segments: bool) -> "TokenizerFacts":
        """Those of a tokenizer of ours."""
        vocab, saved = tokenizer.vocab, tokenizer.saved_settings()
        return cls(vocab.tokens, vocab.special_tokens, tokenizer.do_lower_case, segments, tokenizer.kind,
                   saved.get("merges", ()), base64.b64decode(saved.get("spm_model", "")))

    def write(self, folder: Path, max_length: int) -> None:
        """Write the tokenizer's files for sequences of up to so many tokens."""
        if self.kind in ("bpe", "qwen"):
            write_byte_level(self.tokens, self.special_tokens, self.merges, max_length, folder, self.kind)
        elif self.kind == "xlmroberta":
            write_sentence_piece(self.spm_model, self.special_tokens, max_length, folder)
        else:
            write_tokenizer(self.tokens, self.special_tokens, self.do_lower_case, max_length, folder, self.segments)


def write_folder(folder: str | os.PathLike, weights: Mapping[str, Tensor], table: NameTable, head: str,
                 config: Mapping[str, Any], tokenizer: TokenizerFacts, max_length: int,
                 generation: Mapping[str, Any] | None = None, max_shard_bytes: int = 0) -> None:
    """Write what transformers needs to open a folder offline; the model card is `uer.convert.model_card`'s.

    Args:
        folder: an existing folder.
        weights: `Conversion.weights` of the Hugging Face side.
        table, head: what they were converted by.
        config: the content of config.json.
        tokenizer: its files are written too.
        max_length: the longest sequence the model takes.
        generation: the content of generation_config.json, of a model that generates.
        max_shard_bytes: as for `write_weights`.
    """
    folder = Path(folder)
    write_json(config, folder / "config.json")
    if generation:
        write_json(generation, folder / "generation_config.json")
    tokenizer.write(folder, max_length)
    write_weights(stored_weights(weights, table, head), folder, max_shard_bytes)
