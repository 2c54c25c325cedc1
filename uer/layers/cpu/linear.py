"""Linear layers on a CPU under autocast to bfloat16, with few different shapes.

oneDNN compiles a kernel for each new shape of bfloat16 factors, which takes 2 ms: several times as long as the product
of a small model. Without padding nearly every batch has another number of tokens. So the rows of the input are rounded
up, by an eighth at most, and the numbers of rows that occur are few.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from uer.layers.cpu import eager_cpu

LEAST_ROWS = 16
"""The rows of a register tile of AMX (Advanced Matrix Extensions)."""


def rounded_rows(rows: int) -> int:
    """The number of rows, rounded up to one of eight between neighbouring powers of two.

        100 -> 112,  128 -> 128,  129 -> 144,  1884 -> 1920
    """
    step = max(LEAST_ROWS, 1 << max(0, (rows - 1).bit_length() - 4))
    return -(-rows // step) * step


def with_rounded_rows(matrix: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """(rows, features) -> (rounded_rows(rows), features) of another type, zeros at the end."""
    rows, features = matrix.shape
    rounded = rounded_rows(rows)
    if rounded == rows:
        return matrix.to(dtype).contiguous()
    result = matrix.new_empty(rounded, features, dtype=dtype)
    result[:rows] = matrix
    result[rows:].zero_()
    return result


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether `cpu_linear` serves: plain tensors on a CPU under autocast to bfloat16, not compiled."""
    plain = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter) and x.dtype != torch.float64
    return (plain and torch.is_autocast_enabled("cpu") and eager_cpu(x)
            and torch.get_autocast_dtype("cpu") == torch.bfloat16)


def cpu_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias with bfloat16 factors, as F.linear under autocast.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,) or None.

    Returns:
        (..., O) bfloat16
    """
    with torch.autocast("cpu", enabled=False):
        output = _CpuLinear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
        return output if x.dim() == 2 else output.view(*x.shape[:-1], len(weight))


class _CpuLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        factor, weight_factor = with_rounded_rows(x), weight.to(torch.bfloat16)
        ctx.save_for_backward(factor, weight_factor)
        ctx.rows, ctx.types = len(x), [None if each is None else each.dtype for each in (x, weight, bias)]
        output = F.linear(factor, weight_factor, None if bias is None else bias.to(torch.bfloat16))
        return output.resize_(len(x), len(weight))  # no view, so that callers may change it in place

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        factor, weight = ctx.saved_tensors
        grad, grads = with_rounded_rows(grad), [None, None, None]
        if ctx.needs_input_grad[0]:
            grads[0] = (grad @ weight)[:ctx.rows]
        if ctx.needs_input_grad[1]:
            grads[1] = grad.t() @ factor  # (O, rows) @ (rows, I)
        if ctx.needs_input_grad[2]:
            grads[2] = grad.sum(0)
        return tuple(None if each is None else each.to(dtype) for each, dtype in zip(grads, ctx.types))
