"""The cross-entropy of a large vocabulary: what costs half of a small model's training.

The plain form writes the logits (K, V), their logarithmic softmax, and the gradients of both, each of 100 MB for 1,229
predictions of 21,128 entries. On a CPU, `linear_cross_entropy` works through a block of rows at a time: logits, softmax
in place, gradient in place, and from it at once the gradients of hidden states, weight and bias. No more than one block
of logits ever exists.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from uer.layers.layout import static_shapes

IGNORED = -100
BLOCK_ELEMENTS = 6 * 2**20  # 24 MiB of float32 logits


def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor,
                         label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the logits `hidden @ weight.T + bias`.

    Args:
        hidden: (K, E).
        weight: (V, E).
        bias: (V,).
        labels: (K,) in [0, V), or -100 for rows that do not count.

    Returns:
        The summed loss (0-dim, float32 or wider) and how many rows have their label's logit on top (0-dim, detached).
    """
    if bias is None or static_shapes(hidden) or torch.is_autocast_enabled("cpu") or hidden.dtype not in (torch.float32, torch.float64):
        logits = F.linear(hidden, weight, bias)
        correct = (logits.argmax(-1) == labels).sum().float()
        return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum"), correct
    kept = labels != IGNORED
    if not kept.all():
        hidden, labels = hidden[kept], labels[kept]
    return _BlockedCrossEntropy.apply(hidden, weight, bias, labels, torch.is_grad_enabled())


class _BlockedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor,
                differentiable: bool) -> tuple[Tensor, Tensor]:
        rows = block_rows(len(hidden), len(weight))
        loss, correct = hidden.new_zeros(()), hidden.new_zeros(())
        gradients = ([torch.empty_like(hidden), torch.zeros_like(weight), torch.zeros_like(bias)] if differentiable
                     else None)
        for start in range(0, len(hidden), rows):
            block = slice(start, start + rows)
            logits = cpu_linear(hidden[block], weight, bias)
            label = labels[block, None]
            label_logit = logits.gather(1, label)
            highest = logits.amax(1, keepdim=True)
            correct += (label_logit == highest).sum()
            share = torch.ops.aten._softmax.out(logits, -1, False, out=logits)
            # The largest share is at least 1 / V, so its logarithm is exact where that of the label's may not be.
            loss += (highest - share.amax(1, keepdim=True).log() - label_logit).sum()
            if gradients is not None:
                share.scatter_add_(1, label, share.new_full((1, 1), -1.0).expand_as(label))  # the logits' gradient
                add_gradients(share, hidden[block], weight, block, gradients)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "the gradients of linear_cross_entropy can be taken once only"
        return *(gradient.mul_(grad_loss) for gradient in gradients), None, None


def add_gradients(pull: Tensor, hidden: Tensor, weight: Tensor, block: slice, gradients: list[Tensor]) -> None:
    """Add what follows from a block's gradient `pull` (rows, V) of the logits to those of hidden, weight and bias."""
    grad_hidden, grad_weight, grad_bias = gradients
    torch.mm(pull, weight, out=grad_hidden[block])
    grad_weight.addmm_(pull.t(), hidden)
    grad_bias.add_(pull.sum(0))


def cpu_linear(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """oneDNN's product is half as fast again as torch's default for these shapes: few rows, many columns."""
    if torch.backends.mkldnn.is_available() and hidden.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
    return F.linear(hidden, weight, bias)


def block_rows(rows: int, entries: int) -> int:
    """Rows of a block: equal blocks of at most BLOCK_ELEMENTS logits."""
    blocks = max(1, -(-rows * entries // BLOCK_ELEMENTS))
    return max(1, -(-rows // blocks))
