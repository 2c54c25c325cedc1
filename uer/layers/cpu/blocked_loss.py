"""The loss of a large vocabulary's logits, a block of rows at a time: what costs half of a small model's training.

The plain form writes the logits (K, V), their logarithmic softmax, and the gradients of both, each of 100 MB for 1,229
predictions of 21,128 entries. Here the logits of a block of rows become their gradient in place, and from that follow
at once the gradients of hidden states, weight and bias. No more than a few blocks of logits ever exist.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BLOCK_ELEMENTS = 6 * 2**20  # 24 MiB of float32 logits

# (logits (R, V), the rows' slice of all K rows, whether gradients are wanted) -> the loss summed over the R rows; its
# gradient (R, V) in the logits, which may be overwritten, None where it is not wanted; further sums to be added up.
BlockLoss = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor | None, tuple[Tensor, ...]]]


def blocked_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, block_loss: BlockLoss,
                 sums: int) -> tuple[Tensor, ...]:
    """A loss of the logits `hidden @ weight.T + bias`, summed over the rows.

    Args:
        hidden: (K, E).
        weight: (V, E).
        bias: (V,) or None.
        block_loss: the loss of a block of rows; it must not need gradients itself.
        sums: how many further sums `block_loss` returns.

    Returns:
        The loss, whose gradients can be taken once, and the further sums, detached; 0-dim.
    """
    return _BlockedLoss.apply(hidden, weight, bias, block_loss, sums, torch.is_grad_enabled())


class _BlockedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, block_loss: BlockLoss, sums: int,
                differentiable: bool) -> tuple[Tensor, ...]:
        rows = block_rows(len(hidden), len(weight))
        total, *others = (hidden.new_zeros(()) for _ in range(1 + sums))
        gradients = _zero_gradients(hidden, weight, bias) if differentiable else None
        for start in range(0, len(hidden), rows):
            block = slice(start, start + rows)
            loss, grad_logits, block_sums = block_loss(cpu_linear(hidden[block], weight, bias), block, differentiable)
            total += loss
            for other, block_sum in zip(others, block_sums, strict=True):
                other += block_sum
            if gradients is not None:
                _add_gradients(grad_logits, hidden[block], weight, block, gradients)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(*others)
        return total, *others

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "the gradients of a blocked loss can be taken once only"
        return *(None if gradient is None else gradient.mul_(grad_loss) for gradient in gradients), None, None, None


def _zero_gradients(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor | None]:
    """Of hidden, weight and bias; that of hidden is written as a whole, block by block."""
    return [torch.empty_like(hidden), torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)]


def _add_gradients(grad_logits: Tensor, hidden: Tensor, weight: Tensor, block: slice,
                   gradients: list[Tensor | None]) -> None:
    """Add what follows from a block's gradient of the logits (R, V) to the gradients of hidden, weight and bias."""
    grad_hidden, grad_weight, grad_bias = gradients
    torch.mm(grad_logits, weight, out=grad_hidden[block])  # (R, V) @ (V, E) -> (R, E)
    grad_weight.addmm_(grad_logits.t(), hidden)  # (V, R) @ (R, E) -> (V, E)
    if grad_bias is not None:
        grad_bias.add_(grad_logits.sum(0))


def cpu_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear. oneDNN's product is half as fast again as torch's default for these shapes: few rows, many columns."""
    if torch.backends.mkldnn.is_available() and hidden.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
    return F.linear(hidden, weight, bias)


def block_rows(rows: int, entries: int) -> int:
    """Rows of a block: equal blocks of at most BLOCK_ELEMENTS logits."""
    blocks = max(1, -(-rows * entries // BLOCK_ELEMENTS))
    return max(1, -(-rows // blocks))


def softmax_nll(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The negative logarithm of each label's probability.

    Args:
        logits: (R, V); overwritten by the probabilities.
        labels: (R, 1) in [0, V).

    Returns:
        probs (R, V); the rows' losses (R, 1); the logarithms of their softmax sums, logsumexp (R, 1); and how many rows
        have their label's logit on top, 0-dim.

        logits [[log 1, log 3]], labels [[1]]  ->  probs [[0.25, 0.75]], losses [[-log 0.75]], logsumexp [[log 4]], 1
    """
    label_logit, highest = logits.gather(1, labels), logits.amax(1, keepdim=True)
    correct = (label_logit == highest).sum()
    probs = torch.ops.aten._softmax.out(logits, -1, False, out=logits)
    # The largest probability is at least 1 / V, so its logarithm is exact where that of the label's may not be.
    logsumexp = highest - probs.amax(1, keepdim=True).log()
    return probs, logsumexp - label_logit, logsumexp, correct


def subtract_labels(probs: Tensor, labels: Tensor, amount: float = 1.0) -> Tensor:
    """probs (R, V) - amount * one_hot(labels (R, 1)), in place: with amount 1 the gradient of `softmax_nll`."""
    return probs.scatter_add_(1, labels, probs.new_full((1, 1), -amount).expand_as(labels))
