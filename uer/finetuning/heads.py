"""Models of the downstream tasks: a backbone and a head. Parameter names are UER's."""

import torch
from torch import Tensor, nn

from uer.backbone import Backbone
from uer.config import ModelConfig
from uer.finetuning.batches import Batch
from uer.layers import pooling
from uer.layers.activations import ACTIVATIONS
from uer.layers.crf import ConditionalRandomField, Scores
from uer.layers.dropout import Dropout
from uer.layers.linear import Linear, ScoreLinear
from uer.layers.norm import build_norm
from uer.model import Model

BACKBONE = ("embedding", "encoder")


@torch.no_grad()
def initialise_head(model: nn.Module) -> None:
    """Initialise the head's linear layers as torch does by default: weights and biases uniform in +-1/sqrt(inputs).

    UER-py does this on top of pretrained weights. A model that starts at random keeps N(0, 0.02) everywhere, and so
    does a pretraining target that the pretrained model lacks.
    """
    if isinstance(model, Model):
        return
    for name, part in model.named_children():
        if name not in BACKBONE:
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.Linear.reset_parameters(module)  # `Linear`'s own draws N(0, 0.02)


def pool(model: Backbone, batch: Batch, how: str, stream: int = 0) -> Tensor:
    """One vector for each row, from the hidden states of the last layer at the row's real tokens.

    Every token of segment 1 or 2 counts once and padding does not count. (UER-py multiplies by the segment number, so
    that tokens of segment 2 count twice in a mean.) With "first" and "last" the last layer is computed for that one
    token alone.

    Args:
        batch: src and seg (B, S).
        how: "first" ([CLS]), "last" (the last real token), "mean" or "max", as --pooling.
        stream: which encoder of a dual encoder encodes the rows.

    Returns:
        (B, H)
    """
    real = batch.seg > 0  # (B, S)
    if how in pooling.ONE_TOKEN:
        return model.encode_at(batch.src, batch.seg, pooling.pooled_position(real, how), stream)[:, 0]
    return pooling.pool(model.encode(batch.src, batch.seg, stream), real, how)


class PooledModel(Backbone):
    """A backbone that returns one vector for each row."""

    def pooled(self, batch: Batch) -> Tensor:
        """The vector of each row, (B, H), by the model's `pooling` setting."""
        return pool(self, batch, self.config.pooling)


def _modern_layer(config: ModelConfig) -> tuple[nn.Module | None, nn.Module | None]:
    """Linear layer and layer norm before the last layer of ModernBERT's heads; None where `prediction_head` is another.
    """
    if config.prediction_head != "modernbert":
        return None, None
    return (Linear(config.hidden_size, config.hidden_size, bias=False),
            build_norm("normal", config.hidden_size, config.layernorm_eps, not config.remove_layernorm_bias))


def _after_modern_layer(model: "Classifier | Tagger", hidden: Tensor) -> Tensor:
    """Hidden states (..., H) after the linear layer, the activation and the layer norm of ModernBERT's heads, (..., H);
    the same hidden states where the model has another head."""
    if model.output_layer_norm is None:
        return hidden
    return model.output_layer_norm(ACTIVATIONS[model.config.hidden_act](model.output_layer_1(hidden)))


class Classifier(PooledModel):
    """Applies output_layer_1, tanh and output_layer_2 to each row's vector; also for regression and multi-label.

    With the `prediction_head` of ModernBERT, the model's activation and a layer norm stand in place of tanh; with a
    linear one there is output_layer_2 alone, without bias, as in LLaMA's classifiers.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, outputs_num: int) -> None:
        super().__init__(config, vocab_size)
        self.output_layer_1, self.output_layer_norm = _modern_layer(config)
        if config.prediction_head == "bert":
            self.output_layer_1 = Linear(config.hidden_size, config.hidden_size)
        self.output_layer_2 = ScoreLinear(config.hidden_size, outputs_num, bias=config.prediction_head != "linear")

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, outputs); regression has one output."""
        hidden = _after_modern_layer(self, self.pooled(batch))
        if self.config.prediction_head == "bert":
            hidden = torch.tanh(self.output_layer_1(hidden))
        return self.output_layer_2(hidden)


class Tagger(Backbone):
    """Computes logits for every token: tags, or with 2 outputs the first and the last token of an answer.

    With ModernBERT's `prediction_head`, a linear layer, the model's activation and a layer norm come before.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, outputs_num: int) -> None:
        super().__init__(config, vocab_size)
        self.output_layer_1, self.output_layer_norm = _modern_layer(config)
        self.output_layer = ScoreLinear(config.hidden_size, outputs_num)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, S, outputs), also at padding."""
        return self.output_layer(_after_modern_layer(self, self.encode(batch.src, batch.seg)))


class CrfTagger(Tagger):
    """Adds a conditional random field to a tagger, which scores the tags of a row together."""

    def __init__(self, config: ModelConfig, vocab_size: int, outputs_num: int) -> None:
        super().__init__(config, vocab_size, outputs_num)
        self.crf = ConditionalRandomField(outputs_num)

    def forward(self, batch: Batch) -> tuple[Tensor, Scores]:
        """The emissions (B, S, outputs), and the field's scores: (outputs,), (outputs,) and (outputs, outputs)."""
        return super().forward(batch), self.crf()


class SiameseClassifier(PooledModel):
    """Encodes two texts with one backbone; `classifier` reads both vectors, their difference and their product.

    With the dual encoder the first text goes through stream 0 and the second through stream 1.
    """

    takes_streams = True

    def __init__(self, config: ModelConfig, vocab_size: int, labels_num: int) -> None:
        super().__init__(config, vocab_size)
        self.classifier = ScoreLinear(4 * config.stream(0).hidden_size, labels_num)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (pairs, labels) of rows (2 * pairs, S): rows 2i and 2i + 1 are pair i."""
        first, second = self.both(batch)
        return self.classifier(torch.cat([first, second, (first - second).abs(), first * second], dim=-1))

    def both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The vectors of the first and of the second texts, (pairs, H) each; rows as `forward`."""
        if self.encoder.stream(0) is not self.encoder.stream(1):
            return tuple(pool(self, Batch(batch.src[number::2], batch.seg[number::2]), self.config.pooling, number)
                         for number in (0, 1))
        # (2 * pairs, H) -> (pairs, 2, H) -> twice (pairs, H)
        return self.pooled(batch).unflatten(0, (-1, 2)).unbind(1)


class SentenceEncoder(PooledModel):
    """Returns the pooled vectors; it has no head."""

    def forward(self, batch: Batch) -> Tensor:
        """Vectors (B, H)."""
        return self.pooled(batch)


class MultipleChoice(PooledModel):
    """Computes one score for each row; a softmax over a question's rows gives the probability of each choice."""

    def __init__(self, config: ModelConfig, vocab_size: int, choices_num: int) -> None:
        super().__init__(config, vocab_size)
        self.choices_num = choices_num
        self.dropout = Dropout(config.dropout)
        self.output_layer = ScoreLinear(config.hidden_size, 1)

    def forward(self, batch: Batch) -> Tensor:
        """Scores (questions, choices) of rows (questions * choices, S)."""
        return self.output_layer(self.dropout(self.pooled(batch))).view(-1, self.choices_num)
