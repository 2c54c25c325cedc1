"""Learning a teacher's distribution over the vocabulary beside the labels.

Hinton et al., 2015, https://arxiv.org/abs/1503.02531. Of a student's logits z and a teacher's u, at temperature T,

    objective = (1 - alpha) * cross_entropy(z, label) + alpha * T^2 * KL(softmax(u / T) || softmax(z / T))

whose gradient in z is (1 - alpha) * (softmax(z) - one_hot(label)) + alpha * T * (softmax(z / T) - softmax(u / T)).
As in `cross_entropy`, a CPU works through a block of rows at a time: no more than three blocks of (rows, V) ever exist.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from uer.layers.cross_entropy import IGNORED, add_gradients, block_rows, cpu_linear
from uer.layers.layout import static_shapes


@dataclass(frozen=True)
class SoftTargets:
    """What a teacher says of K predictions, before its output layer: its logits are `hidden @ weight.T + bias`.

    Attributes:
        hidden: (K, E), where E is the teacher's.
        weight: (V, E).
        bias: (V,).
        temperature: what both sides' logits are divided by.
        alpha: the distillation loss weighs alpha, the labels' loss 1 - alpha.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    temperature: float
    alpha: float

    def rows(self, chosen: Tensor) -> "SoftTargets":
        """Some of the predictions, by a mask (K,)."""
        return SoftTargets(self.hidden[chosen], self.weight, self.bias, self.temperature, self.alpha)


class Distilled(NamedTuple):
    """Sums over the predictions, 0-dim; all but the objective are detached."""

    objective: Tensor
    """(1 - alpha) * hard + alpha * soft: what is minimised."""
    hard: Tensor
    """The labels' cross-entropy."""
    soft: Tensor
    """T^2 * KL(teacher || student)."""
    correct: Tensor
    """How many rows have their label's logit on top."""


def linear_distillation(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor,
                        teacher: SoftTargets) -> Distilled:
    """The loss of a student whose logits are `hidden @ weight.T + bias`.

    Args:
        hidden: (K, E).
        weight: (V, E).
        bias: (V,).
        labels: (K,) in [0, V), or -100 for rows that do not count, for the teacher neither.
        teacher: what the same rows get from the teacher.
    """
    if static_shapes(hidden) or torch.is_autocast_enabled("cpu") or hidden.dtype not in (torch.float32, torch.float64):
        return _plain(F.linear(hidden, weight, bias), labels, teacher)
    kept = labels != IGNORED
    if not kept.all():
        hidden, labels, teacher = hidden[kept], labels[kept], teacher.rows(kept)
    return Distilled(*_BlockedDistillation.apply(hidden, weight, bias, labels, teacher, torch.is_grad_enabled()))


def _plain(logits: Tensor, labels: Tensor, teacher: SoftTargets) -> Distilled:
    """Shapes do not depend on values here: rows that do not count are computed and left out of the sums."""
    correct = (logits.argmax(-1) == labels).sum().float()
    logits = logits.float()
    hard = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    with torch.no_grad():
        taught = F.linear(teacher.hidden, teacher.weight, teacher.bias).float() / teacher.temperature
        share, taught_total = taught.softmax(-1), taught.logsumexp(-1)
    cooled = logits / teacher.temperature
    divergence = (share * (taught - cooled)).sum(-1) + cooled.logsumexp(-1) - taught_total
    soft = teacher.temperature**2 * torch.where(labels != IGNORED, divergence, 0.0).sum()
    return Distilled((1 - teacher.alpha) * hard + teacher.alpha * soft, hard.detach(), soft.detach(), correct)


class _BlockedDistillation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, teacher: SoftTargets,
                differentiable: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = block_rows(len(hidden), len(weight))
        hard, soft, correct = (hidden.new_zeros(()) for _ in range(3))
        gradients = ([torch.empty_like(hidden), torch.zeros_like(weight), torch.zeros_like(bias)] if differentiable
                     else None)
        for start in range(0, len(hidden), rows):
            block = slice(start, start + rows)
            logits = cpu_linear(hidden[block], weight, bias)
            label = labels[block, None]
            label_logit, highest = logits.gather(1, label), logits.amax(1, keepdim=True)
            correct += (label_logit == highest).sum()
            divergence, pull = _divergence(logits, cpu_linear(teacher.hidden[block], teacher.weight, teacher.bias),
                                           teacher.temperature)
            soft += teacher.temperature**2 * divergence
            share = torch.ops.aten._softmax.out(logits, -1, False, out=logits)
            hard += (highest - share.amax(1, keepdim=True).log() - label_logit).sum()
            if gradients is not None:
                share.scatter_add_(1, label, share.new_full((1, 1), -1.0).expand_as(label))
                share.mul_(1 - teacher.alpha).add_(pull, alpha=teacher.alpha * teacher.temperature)
                add_gradients(share, hidden[block], weight, block, gradients)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(hard, soft, correct)
        return (1 - teacher.alpha) * hard + teacher.alpha * soft, hard, soft, correct

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_objective: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "the gradients of linear_distillation can be taken once only"
        return *(gradient.mul_(grad_objective) for gradient in gradients), None, None, None


def _divergence(logits: Tensor, taught: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """KL(softmax(taught / T) || softmax(logits / T)), summed, and the difference of the two, student minus teacher.

    `taught` (rows, V) is overwritten, `logits` (rows, V) is not.
    """
    highest = taught.div_(temperature).amax(1)
    answer = taught.softmax(1)
    # The largest share is at least 1 / V, so its logarithm is exact: logsumexp = highest - log(largest share).
    total = torch.linalg.vecdot(answer, taught) - highest + answer.amax(1).log()
    cooled = torch.div(logits, temperature, out=taught)
    total -= torch.linalg.vecdot(answer, cooled)
    highest = cooled.amax(1)
    share = torch.ops.aten._softmax.out(cooled, -1, False, out=cooled)
    total += highest - share.amax(1).log()
    return total.sum(), share.sub_(answer)
