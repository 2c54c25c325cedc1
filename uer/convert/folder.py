"""One Hugging Face folder: configuration, weights, tokenizer."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from uer.convert.hugging_face_files import write_json, write_weights
from uer.convert.names import NameTable, is_tied
from uer.convert.tokenizer_writing import write_tokenizer
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


def write_folder(folder: str | os.PathLike, weights: Mapping[str, Tensor], table: NameTable, head: str,
                 config: Mapping[str, Any], tokenizer: Tokenizer, max_length: int, segments: bool = True,
                 generation: Mapping[str, Any] | None = None, max_shard_bytes: int = 0, truncation: str = "first"
                 ) -> None:
    """Write what transformers needs to open a folder offline; the model card is `uer.convert.model_card`'s.

    Args:
        folder: an existing folder.
        weights: `Conversion.weights` of the Hugging Face side.
        table, head: what they were converted by.
        config: the content of config.json.
        tokenizer: its files are written too.
        max_length, segments, truncation: as for `write_tokenizer`.
        generation: the content of generation_config.json, of a model that generates.
        max_shard_bytes: as for `write_weights`.
    """
    folder = Path(folder)
    write_json(config, folder / "config.json")
    if generation:
        write_json(generation, folder / "generation_config.json")
    write_tokenizer(tokenizer, max_length, folder, segments, truncation)
    write_weights(stored_weights(weights, table, head), folder, max_shard_bytes)
