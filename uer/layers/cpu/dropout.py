"""Dropout with masks of `random_bits`: one node of the autograd graph that keeps one byte an element."""

import torch
from torch import Tensor

from uer.layers.cpu.random_bits import KeepMasks


class CpuDropout(torch.autograd.Function):
    """apply(x, drop): each element is zeroed with probability `drop`, or divided by 1 - drop."""

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


class CpuDropoutAdd(torch.autograd.Function):
    """apply(x, residual, drop): dropout(x) + residual."""

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
