"""Language modelling in both directions (Peters et al., 2018): the next entry and the one before, at every position."""

from torch import Tensor

from uer.config import ModelConfig
from uer.errors import UserError
from uer.layers.linear import Linear, weight_and_bias
from uer.targets.base import Projection, VocabularyTarget


class BilmTarget(VocabularyTarget):
    """One output layer for both directions: the first half of a hidden state predicts the next entry, the second half
    the one before. The two losses are added.

    Raises:
        UserError: the hidden size is odd.
    """

    output = "output_layer"
    needs = ("halves",)

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        if config.hidden_size % 2:
            raise UserError(f"--target bilm divides the hidden state in two; hidden_size {config.hidden_size} is odd")
        self.output_layer = Linear(config.hidden_size // 2, vocab_size, bias=False)

    def projections(self, hidden: Tensor) -> list[Projection]:
        """Hidden states (..., H) -> two output layers: the next entry, and the one before."""
        return [Projection(suffix, half, *weight_and_bias(self.output_layer))
                for suffix, half in zip(("_forward", "_backward"), hidden.chunk(2, dim=-1))]
