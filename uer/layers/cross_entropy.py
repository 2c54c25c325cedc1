"""The cross-entropy of a large vocabulary, with or without label smoothing."""

import torch
from torch import Tensor
from torch.nn import functional as F

from uer.layers.cpu import usable
from uer.layers.cpu.blocked_loss import BlockLoss, blocked_loss, softmax_nll, subtract_labels

IGNORED = -100
"""The label of a row that does not count."""


def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor,
                         label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the logits `hidden @ weight.T + bias`.

    With label smoothing e, and u = e / (V - 1), a row's loss is that of the distribution which gives 1 - e to its label
    and u to each other entry: (1 - e - u) * -log p[label] - u * sum(log p). (UER-py's; torch's spreads e over all V.)

    Args:
        hidden: (K, E).
        weight: (V, E).
        bias: (V,) or None.
        labels: (K,) in [0, V), or IGNORED for rows that do not count.
        label_smoothing: e, in [0, 1).

    Returns:
        The summed loss (0-dim, float32 or wider) and how many rows have their label's logit on top (0-dim, detached).
    """
    if not usable(hidden):
        return _plain(F.linear(hidden, weight, bias), labels, label_smoothing)
    kept = labels != IGNORED
    if not kept.all():
        hidden, labels = hidden[kept], labels[kept]
    return blocked_loss(hidden, weight, bias, _block_loss(labels, label_smoothing))


def _plain(logits: Tensor, labels: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """logits (K, V), labels (K,) -> loss, correct. Shapes do not depend on values: rows that do not count are computed
    and left out of the sums."""
    correct = (logits.argmax(-1) == labels).sum().float()
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    if not label_smoothing:
        return loss, correct
    uniform = label_smoothing / (logits.shape[-1] - 1)
    log_sums = torch.where(labels != IGNORED, logits.log_softmax(-1).sum(-1), 0.0).sum()
    return (1 - label_smoothing - uniform) * loss - uniform * log_sums, correct


def _block_loss(labels: Tensor, label_smoothing: float) -> BlockLoss:
    """The same for a block of rows, with the gradient p - (1 - e - u) * one_hot(label) - u of its logits."""

    def block_loss(logits: Tensor, block: slice, differentiable: bool) -> tuple[Tensor, Tensor | None, tuple[Tensor]]:
        entries, label = logits.shape[1], labels[block, None]
        logit_sums = logits.sum(1, keepdim=True) if label_smoothing else None
        probs, loss, logsumexp, correct = softmax_nll(logits, label)
        if label_smoothing:
            uniform = label_smoothing / (entries - 1)
            loss = (1 - label_smoothing - uniform) * loss - uniform * (logit_sums - entries * logsumexp)
        if not differentiable:
            return loss.sum(), None, (correct,)
        if not label_smoothing:
            return loss.sum(), subtract_labels(probs, label), (correct,)
        return loss.sum(), subtract_labels(probs, label, 1 - label_smoothing - uniform).sub_(uniform), (correct,)

    return block_loss
