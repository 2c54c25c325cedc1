"""Classification of rows: a label of the corpus, from one vector for each row."""

from torch import Tensor

from uer.config import LabelsConfig, ModelConfig
from uer.errors import UserError
from uer.layers.linear import Linear
from uer.targets.base import ClassTarget


class ClsTarget(ClassTarget):
    """linear_1, tanh, linear_2, on the vector that --pooling says."""

    config_class = LabelsConfig

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.linear_1 = Linear(config.hidden_size, config.hidden_size)
        self.linear_2 = Linear(config.hidden_size, self.classes(config))

    @classmethod
    def classes(cls, config: ModelConfig) -> int:
        """--labels_num"""
        count = config.of(LabelsConfig).labels_num
        if count is None:
            raise UserError("--target cls needs --labels_num, the number of labels; the labels of the corpus are "
                            "numbers from 0 to --labels_num - 1")
        return count

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., labels)"""
        return self.linear_2(self.linear_1(hidden).tanh())
