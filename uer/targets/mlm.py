"""Masked language modelling (Devlin et al., 2019): the original token of each masked position."""

from torch import Tensor

from uer.config import ModelConfig
from uer.layers.activations import ACTIVATIONS
from uer.layers.linear import Linear, weight_and_bias
from uer.layers.norm import build_norm
from uer.registry import choose
from uer.targets.base import Projection, VocabularyTarget


class MlmTarget(VocabularyTarget):
    """linear_1, activation, layer_norm, linear_2."""

    output = "linear_2"
    tied = "linear_2.weight"

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        size = config.emb_size if config.factorized_embedding_parameterization else config.hidden_size
        self.activation = choose(ACTIVATIONS, config.hidden_act, "hidden_act")
        self.linear_1 = Linear(config.hidden_size, size, bias=config.prediction_head != "modernbert")
        self.layer_norm = build_norm("normal", size, config.layernorm_eps, not config.remove_layernorm_bias)
        self.linear_2 = Linear(size, vocab_size)

    def projections(self, hidden: Tensor) -> list[Projection]:
        """Hidden states (..., H) -> one output layer."""
        return [Projection("", self.features(hidden), *weight_and_bias(self.linear_2))]

    def features(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., E): what linear_2 turns into logits."""
        return self.layer_norm(self.activation(self.linear_1(hidden)))
