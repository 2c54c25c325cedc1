"""Language modelling: the next entry, at every position."""

from dataclasses import dataclass

from torch import Tensor

from uer.config import ModelConfig, flag
from uer.layers.linear import Linear, weight_and_bias
from uer.targets.base import Projection, VocabularyTarget


@dataclass(frozen=True)
class LmConfig:
    """Language model target (--target lm)"""

    has_lmtarget_bias: bool = flag(False, "Add a bias to the output layer of the lm target.")
    label_smoothing: float = flag(0.0, "Probability that is spread over the other tokens.", file_only=True)

    def problems(self) -> list[str]:
        within = 0.0 <= self.label_smoothing < 1.0
        return [] if within else [f"label_smoothing must lie in [0, 1), not {self.label_smoothing}"]


class LmTarget(VocabularyTarget):
    """One output layer."""

    config_class = LmConfig
    output = "output_layer"
    tied = "output_layer.weight"
    needs = ("earlier", "prefix")

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        own = config.of(LmConfig)
        self.smoothing = own.label_smoothing
        self.output_layer = Linear(config.hidden_size, vocab_size, bias=own.has_lmtarget_bias)

    def projections(self, hidden: Tensor) -> list[Projection]:
        """Hidden states (..., H) -> one output layer."""
        return [Projection("", hidden, *weight_and_bias(self.output_layer))]

    def label_smoothing(self) -> float:
        """The setting of this name."""
        return self.smoothing
