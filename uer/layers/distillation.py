"""Learning a teacher's distribution over the vocabulary beside the labels.

Hinton et al., 2015, https://arxiv.org/abs/1503.02531. Of a student's logits z and a teacher's u, at temperature T,

    objective = (1 - alpha) * cross_entropy(z, label) + alpha * T^2 * KL(softmax(u / T) || softmax(z / T))

whose gradient in z is (1 - alpha) * (softmax(z) - one_hot(label)) + alpha * T * (softmax(z / T) - softmax(u / T)).
On a CPU they are computed a block of rows at a time (`uer.layers.cpu.blocked_loss`).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from uer.layers.cpu import product_type, usable
from uer.layers.cpu.blocked_loss import BlockLoss, blocked_loss, cpu_logits, softmax_nll, subtract_labels
from uer.layers.cross_entropy import IGNORED


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's K predictions, before its output layer: its logits are `hidden @ weight.T + bias`.

    Attributes:
        hidden: (K, E), where E is the teacher's.
        weight: (V, E).
        bias: (V,) or None.
        temperature: what both sides' logits are divided by.
        alpha: the distillation loss weighs alpha, the labels' loss 1 - alpha.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    temperature: float
    alpha: float

    def rows(self, chosen: Tensor) -> "SoftTargets":
        """Some of the predictions, by a mask (K,)."""
        return replace(self, hidden=self.hidden[chosen])


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


def linear_distillation(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor,
                        teacher: SoftTargets) -> Distilled:
    """The loss of a student whose logits are `hidden @ weight.T + bias`.

    Args:
        hidden: (K, E).
        weight: (V, E).
        bias: (V,) or None.
        labels: (K,) in [0, V), or IGNORED for rows that do not count, for the teacher neither.
        teacher: the teacher's predictions for the same rows.
    """
    if not usable(hidden):
        return _plain(F.linear(hidden, weight, bias), labels, teacher)
    kept = labels != IGNORED
    if not kept.all():
        hidden, labels, teacher = hidden[kept], labels[kept], teacher.rows(kept)
    factors = product_type(hidden)
    teacher = replace(teacher, hidden=teacher.hidden.to(factors), weight=teacher.weight.to(factors))
    return Distilled(*blocked_loss(hidden, weight, bias, _block_loss(labels, teacher)))


def _plain(logits: Tensor, labels: Tensor, teacher: SoftTargets) -> Distilled:
    """logits (K, V), labels (K,). Shapes do not depend on values: rows that do not count are computed and left out of
    the sums."""
    correct = (logits.argmax(-1) == labels).sum().float()
    logits = logits.float()
    hard = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    with torch.no_grad():
        teacher_logits = F.linear(teacher.hidden, teacher.weight, teacher.bias).float() / teacher.temperature
        teacher_probs, teacher_logsumexp = teacher_logits.softmax(-1), teacher_logits.logsumexp(-1)
    scaled_logits = logits / teacher.temperature
    # KL = sum p_t (log p_t - log p_s), where log p = logits - logsumexp of each side
    divergence = ((teacher_probs * (teacher_logits - scaled_logits)).sum(-1)
                  + scaled_logits.logsumexp(-1) - teacher_logsumexp)
    soft = teacher.temperature**2 * torch.where(labels != IGNORED, divergence, 0.0).sum()
    return Distilled((1 - teacher.alpha) * hard + teacher.alpha * soft, hard.detach(), soft.detach(), correct)


def _block_loss(labels: Tensor, teacher: SoftTargets) -> BlockLoss:
    """The same for a block of rows, with the gradient of its logits."""

    def block_loss(logits: Tensor, block: slice,
                   differentiable: bool) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        teacher_logits = cpu_logits(teacher.hidden[block], teacher.weight, teacher.bias)
        divergence, difference = _divergence(logits, teacher_logits, teacher.temperature)
        soft, label = teacher.temperature**2 * divergence, labels[block, None]
        probs, losses, _, correct = softmax_nll(logits, label)
        hard = losses.sum()
        objective = (1 - teacher.alpha) * hard + teacher.alpha * soft
        if not differentiable:
            return objective, None, (hard, soft, correct)
        grad_logits = subtract_labels(probs, label).mul_(1 - teacher.alpha)
        grad_logits.add_(difference, alpha=teacher.alpha * teacher.temperature)
        return objective, grad_logits, (hard, soft, correct)

    return block_loss


def _divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The divergence of a block of rows and what its gradient needs.

    Args:
        logits: (R, V) the student's; left as they are.
        teacher_logits: (R, V); overwritten.
        temperature: T, what both are divided by.

    Returns:
        KL(teacher_probs || probs) summed over the rows, 0-dim, and probs - teacher_probs (R, V).
    """
    highest = teacher_logits.div_(temperature).amax(1)
    teacher_probs = teacher_logits.softmax(1)
    # The largest probability is at least 1 / V, so its logarithm is exact: logsumexp = highest - log(largest).
    total = torch.linalg.vecdot(teacher_probs, teacher_logits) - highest + teacher_probs.amax(1).log()
    scaled_logits = torch.div(logits, temperature, out=teacher_logits)
    total -= torch.linalg.vecdot(teacher_probs, scaled_logits)
    highest = scaled_logits.amax(1)
    probs = torch.ops.aten._softmax.out(scaled_logits, -1, False, out=scaled_logits)
    total += highest - probs.amax(1).log()
    return total.sum(), probs.sub_(teacher_probs)
