"""Masked language modelling (Devlin et al., 2019), computed on the predicted positions only."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from uer.config import ModelConfig
from uer.layers.activations import ACTIVATIONS
from uer.layers.cross_entropy import IGNORED, linear_cross_entropy
from uer.layers.distillation import SoftTargets, linear_distillation
from uer.layers.layout import Queries, static_shapes
from uer.layers.linear import Linear
from uer.layers.norm import LayerNorm
from uer.registry import choose
from uer.targets.output import LossOutput


class MlmTarget(nn.Module):
    """linear_1, activation, layer_norm, linear_2: the entry that stood at each predicted position.

    The batch gives `mlm_positions` (B, P), places in the row, and `mlm_labels` (B, P), vocabulary entries, -100 where a
    row predicts fewer than P.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        size = config.emb_size if config.factorized_embedding_parameterization else config.hidden_size
        self.activation = choose(ACTIVATIONS, config.hidden_act, "hidden_act")
        self.linear_1 = Linear(config.hidden_size, size)
        self.layer_norm = LayerNorm(size)
        self.linear_2 = Linear(size, vocab_size)

    def count(self, targets: Mapping[str, Tensor]) -> Tensor:
        """0-dim float32: how many predictions the batch asks for."""
        return (targets["mlm_labels"] != IGNORED).sum().float()

    def wanted(self, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, P) places in the row of the hidden states that are needed, and (B, P) which of them count."""
        return targets["mlm_positions"], targets["mlm_labels"] != IGNORED

    def forward(self, hidden: Tensor, queries: Queries, targets: Mapping[str, Tensor],
                soft: SoftTargets | None = None) -> LossOutput:
        """hidden states (K, H) that answer `wanted` -> the summed cross-entropy, `loss` and `acc`

        Args:
            soft: what a teacher says of the same K predictions. The loss then has the value of the labels' loss, which
                compares with that of any other run, and the gradient of the mix (see `uer.layers.distillation`).
        """
        labels = targets["mlm_labels"].flatten().index_select(0, queries.requests)
        if not static_shapes(hidden):
            kept = labels != IGNORED
            hidden, labels, soft = hidden[kept], labels[kept], soft.rows(kept) if soft else None
        student, count = (self.features(hidden), self.linear_2.weight, self.linear_2.bias), self.count(targets)
        if soft is None:
            loss, correct = linear_cross_entropy(*student, labels)
            return LossOutput(loss, {"loss": (loss.detach(), count), "acc": (correct, count)})
        mixed = linear_distillation(*student, labels, soft)
        loss = mixed.hard + (mixed.objective - mixed.objective.detach())  # not finite where the objective is not
        finite = torch.isfinite(mixed.objective.detach())
        taught = torch.where(finite, mixed.soft, 0.0), torch.where(finite, count, 0.0)
        return LossOutput(loss, {"loss": (mixed.hard, count), "acc": (mixed.correct, count),
                                 "distillation loss": taught})

    def soft_targets(self, hidden: Tensor, temperature: float, alpha: float) -> SoftTargets:
        """A teacher's side: what hidden states (K, H) say, for `forward` of a student."""
        return SoftTargets(self.features(hidden), self.linear_2.weight, self.linear_2.bias, temperature, alpha)

    def features(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., E): what linear_2 turns into logits."""
        return self.layer_norm(self.activation(self.linear_1(hidden)))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., V)"""
        return self.linear_2(self.features(hidden))
