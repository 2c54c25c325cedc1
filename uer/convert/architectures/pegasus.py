"""Pegasus (Zhang et al., 2020): BART's layers with the layer norm before each sub-layer, and sines as positions.

UER has sines in the even features and cosines in the odd ones; Hugging Face's own table has all sines first. A model of
Hugging Face's order is the same function as one of UER's order whose hidden features are numbered anew, so the import
moves features; the export writes UER's table, which from_pretrained keeps.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from uer.config import ModelConfig
from uer.convert.architectures.bart import OUTPUT, STACKS, UER_PREFIXES, WORDS, settings
from uer.convert.architectures.base import Architecture, inputs_with_target
from uer.convert.names import NameTable, layer_norm
from uer.convert.settings import Setting, whole_number
from uer.errors import UserError

POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
CLOSE = 1e-3  # two tables of the same sines differ by less, of other sines by more; bfloat16's numbers by 4e-3

_NAMES = NameTable(
    body=(*WORDS, *layer_norm("encoder.layer_norm", "model.encoder.layer_norm"),
          *layer_norm("decoder.layer_norm", "model.decoder.layer_norm")),
    stacks=STACKS,
    heads={"lm": OUTPUT},
    prefixes={"uer": UER_PREFIXES, "hugging_face": ("model.",)},
    duplicates={"model.encoder.embed_tokens.weight": "model.shared.weight"},
    base_prefix="model.",
)


def sines(length: int, size: int) -> Tensor:
    """(length, size): what UER's embedding "sinusoidalpos" computes.

    Features 0 and 1 of position 1 are sin(1) and cos(1); those of each further pair belong to a longer wave.
    """
    position = torch.arange(length).float()[:, None]
    frequency = torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
    table = torch.empty(length, size)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)[:, :size // 2]
    return table


def computed(config: ModelConfig) -> dict[str, Tensor]:
    """The sines of both sides, (max_seq_length, hidden) each, which no UER checkpoint has."""
    return {name: sines(config.max_seq_length, config.hidden_size) for name in POSITIONS}


def prepare(weights: Mapping[str, Tensor], content: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """Hugging Face's weights without the sines, the hidden features in the order that belongs to UER's sines.

    With 4 features, sines 0, 1 and cosines 0, 1 of Hugging Face's table become sine 0, cosine 0, sine 1, cosine 1:
    features [0, 2, 1, 3].

    Raises:
        UserError: the positions are no such sines.
    """
    rest = {name: tensor for name, tensor in weights.items() if name not in POSITIONS}
    orders = {_order(weights[name], name, path) for name in POSITIONS if name in weights} or {"halves"}
    if len(orders) == 2:
        raise UserError(f"{path}: the positions of encoder and decoder have their sines in different features")
    if orders == {"pairs"}:
        return rest
    moved = {row.hugging_face: row.shape.split() for row in
             _NAMES.rows(_NAMES.count_layers(rest, "hugging_face"), "lm")}
    return {name: _interleaved(tensor, moved.get(name, ())) for name, tensor in rest.items()}


def _order(table: Tensor, name: str, path: str) -> str:
    """"pairs" for UER's table (P, H), "halves" for Hugging Face's."""
    if table.is_floating_point() and table.dim() == 2 and min(table.shape) > 0:
        ours, close = sines(*table.shape), max(CLOSE, torch.finfo(table.dtype).eps)
        for order, found in (("pairs", table.float()), ("halves", _interleaved(table.float(), ("", "hidden")))):
            if torch.allclose(found, ours, rtol=0.0, atol=close):
                return order
    raise UserError(f"{path}: {name} holds no sines and cosines, which UER's Pegasus computes")


def _interleaved(tensor: Tensor, dimensions: tuple[str, ...] | list[str]) -> Tensor:
    """A tensor whose dimensions called "hidden" are numbered anew; as it is where it does not have these dimensions."""
    for axis, dimension in enumerate(dimensions):
        if dimension == "hidden" and tensor.dim() == len(dimensions):
            size, half = tensor.shape[axis], (tensor.shape[axis] + 1) // 2
            order = sorted(range(size), key=lambda feature: (feature % half, feature >= half))
            tensor = tensor.index_select(axis, torch.tensor(order))
    return tensor


PEGASUS = Architecture(
    name="pegasus",
    title="Pegasus",
    names=_NAMES,
    settings=settings(
        "Pegasus", Setting("max_seq_length", "max_position_embeddings", back=whole_number, default=1024),
        Setting("", "scale_embedding", must=True),
        Setting("layernorm_positioning", must="pre"), Setting("remove_embedding_layernorm", must=True),
        Setting("embedding", must=("word", "sinusoidalpos")), Setting("tgt_embedding", must=("word", "sinusoidalpos"))),
    classes={"lm": "PegasusForConditionalGeneration"},
    outputs={"lm": {"lm": "logits"}},
    inputs=inputs_with_target,
    generation={"bos_token_id": "cls_id", "decoder_start_token_id": "cls_id", "eos_token_id": "sep_id",
                "forced_eos_token_id": "sep_id", "pad_token_id": "pad_id"},
    layernorm_eps=1e-5,
    defaults={"max_seq_length": 1024, "hidden_act": "relu"},
    prepare=prepare,
    computed=computed,
)
