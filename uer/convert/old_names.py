"""Names that UER-py's checkpoints had before July 2023, as most published ones have them, and today's."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

PARTS = {"word": "word", "position": "pos", "segment": "seg"}
"""Embeddings by their earlier and their present names."""
# Each is applied to every name, in this order.
REPLACEMENTS = tuple((re.compile(pattern), new) for pattern, new in (
    (r"target\.embedding\.", "tgt_embedding."),
    (r"target\.decoder\.", "decoder."),
    (r"target\.mlm_(linear_[12])\.", r"target.mlm.\1."),
    (r"target\.layer_norm\.", "target.mlm.layer_norm."),
    (r"target\.(?:sp|nsp|sop)_(linear_[12])\.", r"target.sp.\1."),
    (r"embedding\.(embedding_[01])\.", r"embedding.dual.\1."),
))
EMBEDDING = re.compile(r"((?:tgt_)?embedding\.(?:dual\.embedding_[01]\.)?)(word|position|segment)_embedding\.weight")
SINUSOID = re.compile(r"(?:tgt_|target\.)?embedding\.(?:\w+\.)*pe")
"""The table of the sinusoidal positions, which is computed and not loaded."""
OUTPUT_LAYER = "target.output_layer."
BOTH_DIRECTIONS = re.compile(r"encoder\.(rnn_forward\.|rnn\..*_reverse$)")


def translated(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under today's names, in the same order; a dictionary of the same names where there are no others.

        embedding.word_embedding.weight  ->  embedding.word.embedding.weight
        target.sop_linear_1.bias         ->  target.sp.linear_1.bias
        target.embedding.pe              ->  left out
    """
    output_layer = f"target.{_output_target(weights)}.output_layer."
    return {_translated(name, output_layer): tensor for name, tensor in weights.items() if not SINUSOID.fullmatch(name)}


def translation_line(before: Mapping[str, Tensor], after: Mapping[str, Tensor], path: str) -> str:
    """One line for people about what `translated` made of a checkpoint; "" where it changed nothing."""
    count = len(before.keys() - after.keys())
    return f"{path}: UER-py's names of before July 2023 were translated into today's ({count})" if count else ""


def _output_target(names: Iterable[str]) -> str:
    """Which target the output layer belongs to: bilm's encoders read both directions, and lm's never do."""
    return "bilm" if any(BOTH_DIRECTIONS.match(name) for name in names) else "lm"


def _translated(name: str, output_layer: str) -> str:
    if name.startswith(OUTPUT_LAYER):
        return output_layer + name.removeprefix(OUTPUT_LAYER)
    for pattern, new in REPLACEMENTS:
        if pattern.match(name):
            name = pattern.sub(new, name, count=1)
    return EMBEDDING.sub(lambda match: f"{match[1]}{PARTS[match[2]]}.embedding.weight", name)
