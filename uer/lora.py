"""Adapters of a pretrained model (LoRA) as `LoraConfig` describes them: which layers, which parameters are trained,
where the adapters start, and what they are called in files."""

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from uer.checkpoint.files import LoadReport, load_weights
from uer.config import LoraConfig
from uer.errors import UserError
from uer.layers.lora import A, B, LoraLinear, add_adapters, is_adapter, is_named
from uer.text import in_bytes

PARTS = ("embedding", "encoder", "tgt_embedding", "decoder")
"""Children of a model whose linear layers may have adapters."""
BYTES_IN_TRAINING = 12
"""Of a trained number in fp32: its gradient and the two moments of AdamW."""


def adapt(model: nn.Module, config: LoraConfig, say: Callable[[str], object], trained: Collection[str] = ()) -> None:
    """Add adapters to a model that holds its pretrained weights, and freeze the others.

    Args:
        model: a pretraining or fine-tuning model; what is in none of its `PARTS` and is no pretraining target is the
            head of a task, and is trained.
        say: gets a line about what is trained.
        trained: names of further parameters that are trained, as those that the pretrained model lacks.

    Raises:
        UserError: --lora_target or --lora_train names nothing, or the adapters at --lora_pretrained_model_path do not
            fit.
    """
    found = add_adapters(model, PARTS, config.lora_target, config.lora_r, config.lora_alpha, config.lora_dropout)
    for target, layers in found.items():
        if not layers:
            raise UserError(f"--lora_target {target}: no linear layer of this model has such a name")
    frozen = (*PARTS, "target")
    wanted = {*trained}
    for part in config.lora_train:
        named = {name for name, _ in model.named_parameters() if is_named(name, part)}
        if not named:
            raise UserError(f"--lora_train {part}: no parameter of this model has such a name")
        wanted |= named
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name) or name.split(".")[0] not in frozen or name in wanted)
    if config.lora_pretrained_model_path:
        load_adapters(model, config.lora_pretrained_model_path)
    say(summary(model))


def require_backbone(report: LoadReport, path: str) -> None:
    """Check that the pretrained model has every parameter that is frozen.

    Raises:
        UserError: some are missing, and would stay random.
    """
    absent = [name for name in (*report.missing, *(name for name, _, _ in report.other_shape))
              if name.split(".")[0] in PARTS]
    if absent:
        raise UserError(f"{path}: --use_lora freezes the model, but {len(absent)} of its parameters are not there: "
                        f"{', '.join(absent[:3])}; does --config_path fit this model?")


def load_adapters(model: nn.Module, path: str) -> None:
    """Fill the adapters of a model, and what else the file holds of it.

    Raises:
        UserError: the file is no adapter, or that of other layers or another rank.
    """
    state, ours = load_weights(path), model.state_dict()
    needed = {name for name in ours if is_adapter(name)}
    if not any(map(is_adapter, state)):
        raise UserError(f"--lora_pretrained_model_path {path}: it holds no adapters")
    for name in (*sorted(needed), *state):
        theirs = list(state[name].shape) if name in state else "missing"
        if name not in ours and is_adapter(name):
            raise UserError(f"--lora_pretrained_model_path {path}: it adapts {name.rpartition('.')[0]} too; "
                            "--lora_target must name the same layers")
        if name in ours and theirs != list(ours[name].shape):
            raise UserError(f"--lora_pretrained_model_path {path}: {name} is {theirs} in the file and "
                            f"{list(ours[name].shape)} here; --lora_target and --lora_r must be as they were")
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in ours}, strict=False)


def require_pairs(state: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Check that each adapter has both of its matrices.

    Raises:
        UserError: one is missing, or they do not fit one another.
    """
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in filter(is_adapter, state)):
        low, high = (state.get(layer + ending, torch.empty(0)) for ending in (A, B))
        if low.dim() != 2 or high.dim() != 2 or not 0 < len(low) == high.shape[1]:
            raise UserError(f"{path}: {layer}{A} {list(low.shape)} and {B.strip('.')} {list(high.shape)} are not the "
                            "two matrices of an adapter, (r, in) and (out, r)")


def summary(model: nn.Module) -> str:
    """One line about what is trained, and the memory that this saves."""
    parameters = list(model.parameters())
    layers = sum(isinstance(module, LoraLinear) for module in model.modules())
    total = sum(parameter.numel() for parameter in parameters)
    count = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    sizes = (in_bytes(BYTES_IN_TRAINING * number) for number in (count, total))
    return (f"LoRA: {layers} adapted layers; {count:,} of {total:,} parameters are trained ({count / total:.2%}): "
            f"gradients and AdamW's moments take {' instead of '.join(sizes)}")


def recorded_alpha(settings: Mapping[str, Any], given: float | None, path: str) -> float:
    """The alpha of saved adapters.

    Args:
        settings: a saved model's settings, with what `LoraConfig.values` gave in "lora" where they are known.
        given: --lora_alpha, or None.

    Raises:
        UserError: neither tells it.
    """
    recorded = (settings.get("lora") or {}).get("alpha")
    if given is None and recorded is None:
        raise UserError(f"--lora_alpha is needed: nothing beside {path} tells it (TencentPretrain's default is 16)")
    return recorded if given is None else given
