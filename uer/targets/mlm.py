"""Masked language modelling (Devlin et al., 2019), computed on the predicted positions only."""

from collections.abc import Mapping

from torch import Tensor, nn

from uer.config import ModelConfig
from uer.layers.activations import ACTIVATIONS
from uer.layers.cross_entropy import IGNORED, linear_cross_entropy
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

    def forward(self, hidden: Tensor, queries: Queries, targets: Mapping[str, Tensor]) -> LossOutput:
        """hidden states (K, H) that answer `wanted` -> the summed cross-entropy, `loss` and `acc`"""
        labels = targets["mlm_labels"].flatten().index_select(0, queries.slots)
        if not static_shapes(hidden):
            kept = labels != IGNORED
            hidden, labels = hidden[kept], labels[kept]
        loss, correct = linear_cross_entropy(self.features(hidden), self.linear_2.weight, self.linear_2.bias, labels)
        count = self.count(targets)
        return LossOutput(loss, {"loss": (loss.detach(), count), "acc": (correct, count)})

    def features(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., E): what linear_2 turns into logits."""
        return self.layer_norm(self.activation(self.linear_1(hidden)))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., V)"""
        return self.linear_2(self.features(hidden))
