"""Activation checkpointing: a layer's activations are computed again in the backward pass instead of being kept."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

OFF, SELECTIVE, FULL = "off", "selective", "full"

# What a selective policy keeps: matrix products, and attention of torch's fused kernels. Products of batches of
# matrices are not among them: these are attention scores, which are large.
_KEPT = {getattr(torch.ops.aten, name).default for name in (
    "mm", "addmm", "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_flash_attention_for_cpu", "_flash_attention_forward")}


def run(layer: Callable[..., Any], mode: str, *inputs: Any) -> Any:
    """layer(*inputs)

    Args:
        layer: a module.
        mode: "off"; "full" keeps the inputs alone for the backward pass; "selective" keeps the results of matrix
            products and of attention as well, so that little is computed twice (Chen et al., 2016; Korthikanti et al.,
            2022). Where the layer does not train it makes no difference.
    """
    if mode == OFF or not layer.training:
        return layer(*inputs)
    selective = {"context_fn": partial(create_selective_checkpoint_contexts, _policy)} if mode == SELECTIVE else {}
    return checkpoint(layer, *inputs, use_reentrant=False, **selective)


def _policy(context: Any, operation: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
