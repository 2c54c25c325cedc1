"""Masked language modelling (Devlin et al., 2019), computed on the predicted positions only."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from uer.config import ModelConfig
from uer.layers.activations import ACTIVATIONS
from uer.layers.cross_entropy import IGNORED, linear_cross_entropy
from uer.layers.layout import Layout
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

    def forward(self, hidden: Tensor, layout: Layout, targets: Mapping[str, Tensor]) -> LossOutput:
        """(N, H) -> the summed cross-entropy, and `loss` and `acc` of the predictions."""
        positions, labels = targets["mlm_positions"], targets["mlm_labels"]
        start = torch.arange(len(positions), device=positions.device)[:, None] * layout.seg.shape[1]
        positions, labels = (start + positions).flatten(), labels.flatten()
        if hidden.device.type == "cpu":
            kept = labels != IGNORED
            positions, labels = positions[kept], labels[kept]
        features = self.features(layout.select(hidden, positions))
        loss, correct = linear_cross_entropy(features, self.linear_2.weight, self.linear_2.bias, labels)
        count = self.count(targets)
        return LossOutput(loss, {"loss": (loss.detach(), count), "acc": (correct, count)})

    def features(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., E): what linear_2 turns into logits."""
        return self.layer_norm(self.activation(self.linear_1(hidden)))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., V)"""
        return self.linear_2(self.features(hidden))
