"""One Hugging Face folder: configuration, weights, tokenizer."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from uer.convert.hugging_face_files import write_json, write_safetensors
from uer.convert.names import NameTable, is_tied
from uer.convert.tokenizer_files import write_tokenizer


def stored_weights(weights: Mapping[str, Tensor], table: NameTable, head: str) -> dict[str, Tensor]:
    """What model.safetensors holds: a tied output layer is left out, as transformers' own files leave it out.

    An untied one needs its bias under both names, because transformers 5 shares the two only together with the weight.
    """
    if is_tied(weights, table, head, "hugging_face"):
        tied = {row.hugging_face for row in table.tied_rows(head)}
        return {name: tensor for name, tensor in weights.items() if name not in tied}
    return with_copies(weights, table)


def with_copies(weights: Mapping[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """The weights, and those under a second name that transformers does not share where the output layer is untied."""
    copies = {copy: weights[home].clone() for copy, home in table.duplicates.items() if home in weights}
    return {**weights, **copies}


@dataclass(frozen=True)
class TokenizerFacts:
    """The tokenizer of a model.

    Attributes:
        tokens: the vocabulary; an entry's line is its number.
        special_tokens: role -> entry, as in special_tokens_map.json.
        do_lower_case: whether text is lower-cased and its accents stripped.
    """

    tokens: Sequence[str]
    special_tokens: Mapping[str, str]
    do_lower_case: bool


def write_folder(folder: str | os.PathLike, weights: Mapping[str, Tensor], table: NameTable, head: str,
                 config: Mapping[str, Any], tokenizer: TokenizerFacts, max_length: int) -> None:
    """Write what transformers needs to open a folder offline; the model card is `uer.convert.model_card`'s.

    Args:
        folder: an existing folder.
        weights: `Conversion.weights` of the Hugging Face side.
        table, head: what they were converted by.
        config: the content of config.json.
        tokenizer: its files are written too.
        max_length: the longest sequence the model takes.
    """
    folder = Path(folder)
    write_json(config, folder / "config.json")
    write_tokenizer(tokenizer.tokens, tokenizer.special_tokens, tokenizer.do_lower_case, max_length, folder)
    write_safetensors(stored_weights(weights, table, head), folder / "model.safetensors")
