"""Kernels for CPUs, and the one place that decides where they run.

Each stands beside readable mathematics that gives the same values, and that GPUs and `torch.compile` use:

    attention, for `uer.layers.view`                  F.scaled_dot_product_attention
    blocked_loss, for cross_entropy and distillation  F.linear and the loss of all logits at once
    dropout                                           F.dropout
    linear, under autocast                            F.linear
"""

import torch
from torch import Tensor


def usable(tensor: Tensor) -> bool:
    """Whether the kernels take this tensor: on a CPU, not compiled; float32 or float64, or under autocast to bfloat16
    also that."""
    if not eager_cpu(tensor):
        return False
    if torch.is_autocast_enabled("cpu"):
        return (torch.get_autocast_dtype("cpu") == torch.bfloat16
                and tensor.dtype in (torch.float32, torch.bfloat16))
    return tensor.dtype in (torch.float32, torch.float64)


def product_type(tensor: Tensor) -> torch.dtype:
    """The type of the factors of matrix products: bfloat16 under autocast, else the tensor's. Sums are float32 or
    wider."""
    return torch.bfloat16 if torch.is_autocast_enabled("cpu") else tensor.dtype


def eager_cpu(tensor: Tensor) -> bool:
    """Whether a tensor is on a CPU and is not being compiled: dropout's masks may come from `random_bits` then."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
