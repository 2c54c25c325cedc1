"""Linear layers on a CPU under autocast to bfloat16, with few different shapes.

oneDNN compiles a kernel for each new shape of bfloat16 factors, which takes 2 ms: several times as long as the product
of a small model. Without padding nearly every batch has another number of tokens. So the rows of the input are rounded
up, by an eighth at most, and the numbers of rows that occur are few.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.layers.cpu import usable

LEAST_ROWS = 16
"""The rows of a register tile of AMX (Advanced Matrix Extensions)."""


def rounded_rows(rows: int) -> int:
    """The number of rows, rounded up to one of eight between neighbouring powers of two.

        100 -> 112,  128 -> 128,  129 -> 144,  1884 -> 1920
    """
    step = max(LEAST_ROWS, 1 << max(0, (rows - 1).bit_length() - 4))
    return -(-rows // step) * step


def with_rounded_rows(matrix: Tensor) -> Tensor:
    """(rows, features) -> (rounded_rows(rows), features) bfloat16, zeros at the end."""
    narrow, missing = matrix.to(torch.bfloat16).contiguous(), rounded_rows(len(matrix)) - len(matrix)
    return torch.cat([narrow, narrow.new_zeros(missing, narrow.shape[1])]) if missing else narrow


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether `cpu_linear` serves: plain tensors on a CPU under autocast to bfloat16, not compiled."""
    plain = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter)
    return plain and torch.is_autocast_enabled("cpu") and usable(x)


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
        matrix = x.reshape(-1, x.shape[-1])
        output = F.linear(with_rounded_rows(matrix), weight.to(torch.bfloat16),
                          None if bias is None else bias.to(torch.bfloat16))
        output = output if len(output) == len(matrix) else output[:len(matrix)]
        return output if x.dim() == 2 else output.view(*x.shape[:-1], len(weight))
