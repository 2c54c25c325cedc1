"""One Hugging Face folder: configuration, weights, tokenizer, model card."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from uer.convert.files import write_json, write_safetensors
from uer.convert.names import NameTable, is_tied
from uer.convert.tokenizer_files import write_tokenizer


def tied_output(weights: Mapping[str, Tensor], table: NameTable, head: str) -> bool:
    """Whether the output layer of Hugging Face weights is the word embedding (true where there is no such layer)."""
    return all(is_tied(weights, row, "hugging_face", table) for row in table.heads[head] if row.tied_to)


def stored_weights(weights: Mapping[str, Tensor], table: NameTable, head: str) -> dict[str, Tensor]:
    """What model.safetensors holds: a tied output layer is left out, as transformers' own files leave it out.

    An untied one needs its bias under both names, because transformers 5 shares the two only together with the weight.
    """
    if tied_output(weights, table, head):
        tied = {row.hugging_face for row in table.heads[head] if row.tied_to}
        return {name: tensor for name, tensor in weights.items() if name not in tied}
    copies = {copy: weights[home].clone() for copy, home in table.duplicates.items() if home in weights}
    return {**weights, **copies}


def write_folder(folder: str | os.PathLike, weights: Mapping[str, Tensor], table: NameTable, head: str,
                 config: Mapping[str, Any], tokens: Sequence[str], do_lower_case: bool, card: str) -> None:
    """Write a folder that transformers opens offline.

    Args:
        folder: an existing folder.
        weights: `Conversion.weights` of the Hugging Face side.
        table, head: what they were converted by.
        config: the content of config.json.
        tokens: the vocabulary.
        do_lower_case: the tokenizer's setting.
        card: the text of README.md.
    """
    folder = Path(folder)
    write_json(config, folder / "config.json")
    write_tokenizer(tokens, do_lower_case, config["max_position_embeddings"], folder)
    write_safetensors(stored_weights(weights, table, head), folder / "model.safetensors")
    (folder / "README.md").write_text(card, encoding="utf-8")
