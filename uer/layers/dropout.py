"""Dropout (Srivastava et al., 2014), alone and joined with the residual sum that follows it."""

from torch import Tensor, nn
from torch.nn import functional as F

from uer.layers.cpu import eager_cpu
from uer.layers.cpu.dropout import CpuDropout, CpuDropoutAdd


def dropout(x: Tensor, drop: float) -> Tensor:
    """Zero each element with probability `drop` and divide the others by 1 - drop."""
    if drop == 0.0:
        return x
    return CpuDropout.apply(x, drop) if eager_cpu(x) else F.dropout(x, drop)


def dropout_add(x: Tensor, residual: Tensor, drop: float) -> Tensor:
    """dropout(x) + residual"""
    if drop == 0.0 or not eager_cpu(x):
        return dropout(x, drop) + residual
    return CpuDropoutAdd.apply(x, residual, drop)


class Dropout(nn.Module):
    """`dropout` while training, else the identity."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """dropout(x), plus `residual` if given; all of one shape."""
        drop = self.drop if self.training else 0.0
        return dropout(x, drop) if residual is None else dropout_add(x, residual, drop)
