"""Adapters (LoRA) under the names that peft has for them, over the names of a Hugging Face model.

    encoder.transformer.0.self_attn.linear_layers.0.lora_A
    base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight

Where Hugging Face has several of UER's layers as one (GPT-2's c_attn), their adapters become one of the ranks' sum: the
A below one another, each B in the rows of its layer. With rank 1 and one row each, of query and value:

    A = [a_q; a_v],  B = [[b_q, 0], [0, 0], [0, b_v]]     B A = [b_q a_q; 0; b_v a_v]

peft multiplies by alpha / r, so alpha grows with the rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from uer.convert.architectures import Architecture
from uer.convert.changes import DOES_NOT_FIT, TRANSPOSED, Chain, Change, reason
from uer.convert.names import Row
from uer.errors import UserError

PREFIX = "base_model.model."
A, B = ".lora_A", ".lora_B"
TASK_TYPES = {"text_classification": "SEQ_CLS", "token_classification": "TOKEN_CLS", "extractive_qa": "QUESTION_ANS",
              "lm": "CAUSAL_LM"}
"""What peft calls the models of these heads."""


@dataclass(frozen=True)
class Adapter:
    """The tensors of adapter_model.safetensors, and the content of adapter_config.json."""

    weights: dict[str, Tensor]
    config: dict[str, Any]


def to_peft(state: Mapping[str, Tensor], base: Mapping[str, Tensor], architecture: Architecture, head: str,
            alpha: float, base_name: str | None) -> Adapter:
    """Adapters, and what else was trained, for peft.

    Args:
        state: what was trained, by UER's names: for each adapted layer `.lora_A` (r, in) and `.lora_B` (out, r).
        base: the weights of the model that they belong to, by UER's names.
        architecture, head: what the model is converted by.
        alpha: the adapters' product is multiplied by alpha / r.
        base_name: folder or name of the Hugging Face model that they belong to.

    Raises:
        UserError: a trained tensor has no counterpart in the Hugging Face model.
    """
    rows = architecture.names.rows(architecture.names.count_layers(base, "uer"), head)
    weights: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    kept: dict[str, None] = {}
    left = set(state)
    transposed = False
    for row in rows:
        names = row.names("uer")
        if own := [name for name in names if _layer(name) + A in state]:
            layer = _layer(row.hugging_face)
            low, high = _adapter_of(row, state, base)
            weights |= {f"{PREFIX}{layer}{A}.weight": low, f"{PREFIX}{layer}{B}.weight": high}
            ranks[layer] = len(low)
            left -= {_layer(name) + end for name in own for end in (A, B)}
            transposed |= _without_transposition(row.change)[1]
        if any(name in state for name in names):
            kept[_layer(row.hugging_face)] = None
            left -= set(names)
    if left:
        raise UserError(f"{min(left)} and {len(left) - 1} further trained tensors have no counterpart in Hugging "
                        f"Face's {architecture.title} ({architecture.classes.get(head, 'without a head')})")
    for row in rows:  # peft keeps whole modules: weight and bias
        if _layer(row.hugging_face) in kept:
            tensors = tuple(state[name] if name in state else base[name] for name in row.names("uer"))
            (weights[PREFIX + row.hugging_face],) = (tensor.clone(memory_format=torch.contiguous_format)
                                                     for tensor in row.converted(tensors, "hugging_face"))
    return Adapter(weights, _config(ranks, [*kept], alpha, architecture, head, base_name, state, transposed))


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _adapter_of(row: Row, state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A and B of one layer of Hugging Face's.

    Raises:
        UserError: its weight is made from UER's by more than putting rows in another order.
    """
    change, _ = _without_transposition(row.change)
    lows, columns = [], []
    for name in row.names("uer"):
        if _layer(name) + A in state:
            low, high = state[_layer(name) + A], state[_layer(name) + B]  # (r, in), (out, r)
            parts = tuple(high if other == name else high.new_zeros(len(base[other]), len(low))
                          for other in row.names("uer"))
            try:
                columns += change.to_hugging_face(parts)  # (sum of out, r)
            except DOES_NOT_FIT as error:
                raise UserError(f"{name}: its adapter cannot be converted ({reason(error)})") from None
            lows.append(low)
    return torch.cat(lows).contiguous(), torch.cat(columns, dim=1).contiguous()


def _without_transposition(change: Change) -> tuple[Change, bool]:
    """What a change does to rows, and whether it also turns the matrix; adapters are not turned."""
    changes = change.changes if isinstance(change, Chain) else (change,)
    kept = tuple(each for each in changes if each != TRANSPOSED)
    return Chain(kept), len(kept) < len(changes)


def _config(ranks: Mapping[str, int], kept: list[str], alpha: float, architecture: Architecture, head: str,
            base_name: str | None, state: Mapping[str, Tensor], transposed: bool) -> dict[str, Any]:
    """The content of adapter_config.json."""
    usual = len(next(tensor for name, tensor in state.items() if name.endswith(A)))  # r of UER's adapters
    other = {layer: rank for layer, rank in ranks.items() if rank != usual}
    return {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM" if architecture.has_decoder else TASK_TYPES.get(head),
            "base_model_name_or_path": base_name, "r": usual, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none",
            "target_modules": [*ranks], "modules_to_save": kept or None, "fan_in_fan_out": transposed,
            "rank_pattern": other, "alpha_pattern": {layer: alpha * rank / usual for layer, rank in other.items()},
            "inference_mode": True}
