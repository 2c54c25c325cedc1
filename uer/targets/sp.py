"""Sentence pairs: is the second part from elsewhere (Devlin et al., 2019), or are the two swapped (Lan et al., 2020)?

The processor decides which of the two it is: bert or albert.
"""

from torch import Tensor

from uer.config import ModelConfig
from uer.layers.linear import Linear
from uer.targets.base import ClassTarget


class SpTarget(ClassTarget):
    """linear_1, tanh, linear_2: two classes, from the hidden state of [CLS]."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.linear_1 = Linear(config.hidden_size, config.hidden_size)
        self.linear_2 = Linear(config.hidden_size, 2)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., 2)"""
        return self.linear_2(self.linear_1(hidden).tanh())
