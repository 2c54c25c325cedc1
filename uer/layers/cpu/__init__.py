"""Kernels for CPUs, and the one place that decides where they run.

Each stands beside readable mathematics that gives the same values, and that GPUs and `torch.compile` use:

    attention, for `uer.layers.view`                  F.scaled_dot_product_attention
    blocked_loss, for cross_entropy and distillation  F.linear and the loss of all logits at once
    dropout                                           F.dropout
"""

import torch
from torch import Tensor


def usable(tensor: Tensor) -> bool:
    """Whether the kernels take this tensor: float32 or float64 on a CPU, neither compiled nor under autocast."""
    return (random_masks_usable(tensor) and tensor.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled("cpu"))


def random_masks_usable(tensor: Tensor) -> bool:
    """Whether dropout's masks may come from `random_bits`: on a CPU, for every floating-point type."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
