"""Dropout (Srivastava et al., 2014), alone and joined with the residual sum that follows it.

On a CPU the masks come from `random_bits` and each function is one node of the autograd graph that keeps one byte an
element. Elsewhere, and under torch.compile, torch's own dropout is used.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.layers.random_bits import KeepMasks


def dropout(x: Tensor, drop: float) -> Tensor:
    """Zero each element with probability `drop` and divide the others by 1 - drop."""
    if drop == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, drop)
    return _CpuDropout.apply(x, drop)


def dropout_add(x: Tensor, residual: Tensor, drop: float) -> Tensor:
    """dropout(x) + residual"""
    if drop == 0.0 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return dropout(x, drop) + residual
    return _CpuDropoutAdd.apply(x, residual, drop)


class Dropout(nn.Module):
    """`dropout` while training, else the identity."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """dropout(x), plus `residual` if given; all of one shape."""
        drop = self.drop if self.training else 0.0
        return dropout(x, drop) if residual is None else dropout_add(x, residual, drop)


class _CpuDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, drop: float) -> Tensor:
        masks = KeepMasks(drop)
        keep = masks.draw(x.shape)
        ctx.save_for_backward(keep)
        ctx.scale = masks.scale
        return torch.mul(x, keep).mul_(masks.scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return torch.mul(grad, keep).mul_(ctx.scale), None


class _CpuDropoutAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, residual: Tensor, drop: float) -> Tensor:
        masks = KeepMasks(drop)
        keep = masks.draw(x.shape)
        ctx.save_for_backward(keep)
        ctx.scale = masks.scale
        kept = torch.mul(x, keep)
        return torch.add(residual, kept, alpha=masks.scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (keep,) = ctx.saved_tensors
        return torch.mul(grad, keep).mul_(ctx.scale), grad, None
