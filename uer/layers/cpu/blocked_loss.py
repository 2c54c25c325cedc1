"""The loss of a large vocabulary's logits, a block of rows at a time: what costs half of a small model's training.

The plain form writes the logits (K, V), their logarithmic softmax, and the gradients of both, each of 100 MB for 1,229
predictions of 21,128 entries. Here the logits of a block of rows become their gradient in place, and from that follow
at once the gradients of hidden states, weight and bias. No more than a few blocks of logits ever exist.

Under autocast the three matrix products have bfloat16 factors; a block's logits, their softmax, the loss and the sums
of gradients over the blocks are float32.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from uer.layers.cpu import product_type

BLOCK_ELEMENTS = 6 * 2**20  # 24 MiB of float32 logits
LARGE_VOCABULARY = 98304
"""From so many entries on a block has 64 rows, as here: with fewer, to read and write the weight's gradient for each
block takes long beside its products (250,002 entries of 256 features: 0.78 times as long as with 25 rows, measured)."""
UNDERFLOW = 1e-30  # a smaller probability is 0 or has lost digits

# (logits (R, V) of float32 or wider, the rows' slice of all K rows, whether gradients are wanted) -> the loss summed
# over the R rows; its gradient (R, V) in the logits, which may be overwritten, None where it is not wanted; more sums.
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
    factors = product_type(hidden)
    with torch.autocast("cpu", enabled=False):
        return _BlockedLoss.apply(hidden, weight, bias, block_loss, sums, factors, torch.is_grad_enabled())


class _BlockedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, block_loss: BlockLoss, sums: int,
                factors: torch.dtype, differentiable: bool) -> tuple[Tensor, ...]:
        rows, wide = block_rows(len(hidden), len(weight)), torch.promote_types(factors, torch.float32)
        total, *others = (hidden.new_zeros((), dtype=wide) for _ in range(1 + sums))
        gradients = _new_gradients((hidden, weight, bias), ctx.needs_input_grad) if differentiable else None
        ctx.gradients = gradients
        hidden, weight = hidden.to(factors), weight.to(factors)
        for start in range(0, len(hidden), rows):
            block = slice(start, start + rows)
            loss, grad_logits, block_sums = block_loss(cpu_logits(hidden[block], weight, bias), block, differentiable)
            total += loss
            for other, block_sum in zip(others, block_sums, strict=True):
                other += block_sum
            if gradients is not None:
                _add_gradients(grad_logits, hidden[block], weight, block, gradients)
        ctx.mark_non_differentiable(*others)
        return total, *others

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "the gradients of a blocked loss can be taken once only"
        return *(None if gradient is None else gradient.mul_(grad_loss) for gradient in gradients), *[None] * 4


def _new_gradients(inputs: tuple[Tensor, Tensor, Tensor | None], needed: tuple[bool, ...]) -> list[Tensor | None]:
    """Of hidden, weight and bias, None of those that are frozen; the first block overwrites them, so they are zeros
    only where there is none."""
    new = torch.empty_like if len(inputs[0]) else torch.zeros_like
    return [new(each) if need else None for each, need in zip(inputs, needed)]


def _add_gradients(grad_logits: Tensor, hidden: Tensor, weight: Tensor, block: slice,
                   gradients: list[Tensor | None]) -> None:
    """Add what follows from a block's gradient of the logits (R, V) to the gradients of hidden, weight and bias.

    The factors hidden (R, E) and weight (V, E) are of `product_type`.
    """
    grad_hidden, grad_weight, grad_bias = gradients
    factor, beta = grad_logits.to(weight.dtype), float(block.start > 0)
    if grad_hidden is not None:
        _add_product(grad_hidden[block], factor, weight, 0.0)  # (R, V) @ (V, E) -> (R, E)
    if grad_weight is not None:
        _add_product(grad_weight, factor.t(), hidden, beta)  # (V, R) @ (R, E) -> (V, E)
    if grad_bias is not None:
        grad_bias.addmv_(grad_logits.t(), grad_logits.new_ones(len(grad_logits)), beta=beta)


def _add_product(total: Tensor, left: Tensor, right: Tensor, beta: float) -> None:
    """total = beta * total + left @ right, where beta is 0 or 1; `total` may be wider than the factors."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, beta=beta)
    elif beta:
        total.add_(left @ right)
    else:
        total.copy_(left @ right)


def cpu_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """hidden (R, E), weight (V, E) of `product_type`, bias (V,) -> logits (R, V), float32 or wider.

    oneDNN's product is half as fast again as F.linear for these shapes: few rows, many columns.
    """
    if torch.backends.mkldnn.is_available() and hidden.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
    logits = F.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype))
    return logits.float() if hidden.dtype == torch.bfloat16 else logits


def block_rows(rows: int, entries: int) -> int:
    """Rows of a block: equal blocks of at most BLOCK_ELEMENTS logits, more with more entries than LARGE_VOCABULARY."""
    blocks = max(1, -(-rows * min(entries, LARGE_VOCABULARY) // BLOCK_ELEMENTS))
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
    label_prob = probs.gather(1, labels)
    logsumexp = label_logit - label_prob.log()
    if len(labels) and label_prob.min() < UNDERFLOW:
        # The largest probability is at least 1 / V, so its logarithm is exact where that of the label's is not.
        logsumexp = highest - probs.amax(1, keepdim=True).log()
    return probs, logsumexp - label_logit, logsumexp, correct


def subtract_labels(probs: Tensor, labels: Tensor, amount: float = 1.0) -> Tensor:
    """probs (R, V) - amount * one_hot(labels (R, 1)), in place: with amount 1 the gradient of `softmax_nll`."""
    return probs.scatter_add_(1, labels, probs.new_full((1, 1), -amount).expand_as(labels))
