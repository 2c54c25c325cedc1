"""Models of the downstream tasks: a backbone and a head. Parameter names are UER's."""

import torch
from torch import Tensor, nn

from uer.config import ModelConfig
from uer.finetuning.batches import Batch
from uer.layers.crf import ConditionalRandomField, Scores
from uer.layers.linear import Linear
from uer.model import Backbone

BACKBONE = ("embedding", "encoder")


@torch.no_grad()
def initialise_head(model: nn.Module) -> None:
    """Draw the head's linear layers as torch does by default: weights and biases uniform in +-1/sqrt(inputs).

    So does UER-py on top of pretrained weights. A model that starts at random keeps N(0, 0.02) everywhere.
    """
    for name, part in model.named_children():
        if name not in BACKBONE:
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.Linear.reset_parameters(module)  # `Linear`'s own draws N(0, 0.02)


def pool(model: Backbone, batch: Batch, how: str) -> Tensor:
    """(B, S) -> (B, H), one vector a row, as `--pooling` says; padding never counts.

    Where one token stands for the row, the last layer is computed for that token alone.
    """
    real = batch.seg > 0
    if how in ("first", "last"):
        last = real.sum(1, keepdim=True) - 1
        return model.encode_at(batch.src, batch.seg, torch.zeros_like(last) if how == "first" else last)[:, 0]
    hidden = model.encode(batch.src, batch.seg)
    if how == "mean":
        return (hidden * real[:, :, None]).sum(1) / real.sum(1, keepdim=True)
    assert how == "max"
    return hidden.masked_fill(~real[:, :, None], float("-inf")).amax(1)


class PooledModel(Backbone):
    """A backbone whose rows become one vector each."""

    def pooled(self, batch: Batch) -> Tensor:
        """(B, S) -> (B, H), as the model's `--pooling` says."""
        return pool(self, batch, self.config.pooling)


class Classifier(PooledModel):
    """output_layer_1, tanh, output_layer_2: logits of the row; also regression (1 output) and multi-label."""

    def __init__(self, config: ModelConfig, vocab_size: int, outputs_num: int) -> None:
        super().__init__(config, vocab_size)
        self.output_layer_1 = Linear(config.hidden_size, config.hidden_size)
        self.output_layer_2 = Linear(config.hidden_size, outputs_num)

    def forward(self, batch: Batch) -> Tensor:
        """(B, outputs)"""
        return self.output_layer_2(torch.tanh(self.output_layer_1(self.pooled(batch))))


class Tagger(Backbone):
    """Logits for every token: labels of named entities, or (2 outputs) the first and last token of an answer."""

    def __init__(self, config: ModelConfig, vocab_size: int, outputs_num: int) -> None:
        super().__init__(config, vocab_size)
        self.output_layer = Linear(config.hidden_size, outputs_num)

    def forward(self, batch: Batch) -> Tensor:
        """(B, S, outputs)"""
        return self.output_layer(self.encode(batch.src, batch.seg))


class CrfTagger(Tagger):
    """A tagger whose tags are decided together, by a conditional random field over each row."""

    def __init__(self, config: ModelConfig, vocab_size: int, outputs_num: int) -> None:
        super().__init__(config, vocab_size, outputs_num)
        self.crf = ConditionalRandomField(outputs_num)

    def forward(self, batch: Batch) -> tuple[Tensor, Scores]:
        """The emissions (B, S, outputs), and what the field adds to them."""
        return super().forward(batch), self.crf()


class SiameseClassifier(PooledModel):
    """Two texts go through one backbone; `classifier` sees both vectors, their difference and their product."""

    def __init__(self, config: ModelConfig, vocab_size: int, labels_num: int) -> None:
        super().__init__(config, vocab_size)
        self.classifier = Linear(4 * config.hidden_size, labels_num)

    def forward(self, batch: Batch) -> Tensor:
        """Rows 2i and 2i + 1 are a pair: (2B, S) -> (B, labels)"""
        first, second = self.pooled(batch).view(-1, 2, self.config.hidden_size).unbind(1)
        return self.classifier(torch.cat([first, second, (first - second).abs(), first * second], dim=-1))


class SentenceEncoder(PooledModel):
    """No head: the pooled vectors themselves."""

    def forward(self, batch: Batch) -> Tensor:
        """(B, H)"""
        return self.pooled(batch)


class MultipleChoice(PooledModel):
    """One score a row; the rows of a question compete."""

    def __init__(self, config: ModelConfig, vocab_size: int, choices_num: int) -> None:
        super().__init__(config, vocab_size)
        self.choices_num = choices_num
        self.dropout = nn.Dropout(config.dropout)
        self.output_layer = Linear(config.hidden_size, 1)

    def forward(self, batch: Batch) -> Tensor:
        """(B * choices, S) -> (B, choices)"""
        return self.output_layer(self.dropout(self.pooled(batch))).view(-1, self.choices_num)
