"""The interface of a pretraining target.

The model calls the encoder once for the hidden states of all targets' positions, and passes to each target its own: K
states and their labels. A target does not know their positions in the batch.

A new target is one file with one class, one line in `uer.targets` and one entry in tests/contract.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from uer.config import ModelConfig
from uer.layers.cross_entropy import IGNORED, linear_cross_entropy
from uer.layers.distillation import SoftTargets, linear_distillation
from uer.layers.sampled_softmax import SampledCrossEntropy


class Metric(NamedTuple):
    """A ratio in two parts, which are summed over batches and ranks before one is divided by the other; 0-dim."""

    total: Tensor
    count: Tensor


@dataclass
class LossOutput:
    """The result of a target, on the device.

    Attributes:
        loss: 0-dim, summed over the predictions.
        metrics: by name, detached. "loss" is the target's own, "acc" its accuracy; a target with several parts ends the
            names with theirs: "loss_forward".
    """

    loss: Tensor
    metrics: dict[str, Metric] = field(default_factory=dict)


class Target(nn.Module):
    """A head and its loss.

    The constructor takes (config: ModelConfig, vocab_size: int).
    """

    config_class: ClassVar[type] = type(None)
    """The settings that only this target has; see `uer.config.Members`."""
    tied: ClassVar[str] = ""
    """The parameter that --tie_weights makes the word embedding's: "linear_2.weight"; "" where there is none."""
    perplexity: ClassVar[bool] = False
    """Whether exp(loss) is a perplexity."""

    needs: ClassVar[tuple[str, ...]] = ()
    """What the encoder may see (`Encoder.sees`), so that its input does not hold the labels; () where it may be all."""
    pooling: str = ""
    """For a target with one label a row, at position 0: which vector of the row it predicts from, "first", "last",
    "mean" or "max" (`uer.layers.pooling`). "": from the hidden state of each label's own position."""

    @classmethod
    def classes(cls, config: ModelConfig) -> int | None:
        """The number of classes, where the labels number classes that the dataset defines; else None.

        Raises:
            UserError: the settings do not say it.
        """
        return None

    @abstractmethod
    def forward(self, hidden: Tensor, labels: Tensor, soft: Sequence[SoftTargets] | None = None) -> LossOutput:
        """Compute the loss and the metrics.

        Args:
            hidden: (K, H) states of the positions that the labels are for.
            labels: (K, ...) int64; IGNORED where a state is there only to keep shapes static.
            soft: a teacher's distributions for the same K predictions; only for targets with `soft_targets`.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., classes)"""

    def soft_targets(self, hidden: Tensor, temperature: float, alpha: float) -> list[SoftTargets]:
        """The distributions of a teacher with the hidden states (K, H), the argument `soft` of a student's `forward`.

        [] for a target that cannot be distilled.
        """
        return []


class Projection(NamedTuple):
    """An output layer that predicts an entry of the vocabulary: the logits (K, V) are `features @ weight.T + bias`."""

    suffix: str
    """What its metrics' names end with: "" or "_forward"."""
    features: Tensor
    """(K, E)"""
    weight: Tensor
    """(V, E)"""
    bias: Tensor | None
    """(V,)"""


class VocabularyTarget(Target):
    """A target that predicts entries of the vocabulary, with the cross-entropy loss and with distillation.

    It makes one prediction from each hidden state, with labels (K,), or n predictions, with labels (K, n).
    """

    perplexity = True
    output: ClassVar[str]
    """Name of the layer over the vocabulary: "linear_2"."""
    cross_entropy = staticmethod(linear_cross_entropy)
    """The loss of (hidden, weight, bias, labels, label smoothing); another where ranks divide the vocabulary."""

    def sample_softmax(self, counts: Tensor, entries: int) -> None:
        """Compute only `entries` logits of each prediction while training; see `uer.layers.sampled_softmax`.

        Args:
            counts: (V,) how frequent each entry of the vocabulary is in the training data.
        """
        self.sampled_cross_entropy = SampledCrossEntropy(counts, entries)

    @abstractmethod
    def projections(self, hidden: Tensor) -> list[Projection]:
        """The output layers for hidden states (..., H): one, or n."""

    def label_smoothing(self) -> float:
        """How much of the label's probability is spread over the other entries."""
        return 0.0

    def forward(self, hidden: Tensor, labels: Tensor, soft: Sequence[SoftTargets] | None = None) -> LossOutput:
        """The sum of the losses of all output layers; see `Target.forward`.

        With a teacher the loss has the value of the labels' loss, so that it can be compared with that of other runs,
        and the gradient of the mixed objective (see `uer.layers.distillation`).
        """
        projections = self.projections(hidden)
        parts = [labels] if len(projections) == 1 else labels.unbind(-1)  # (K,) each
        outputs = [self._distilled(projection, part, soft[number]) if soft else self._trained(projection, part)
                   for number, (projection, part) in enumerate(zip(projections, parts))]
        metrics = {name + projection.suffix: output.metrics[name] for name in outputs[0].metrics
                   for projection, output in zip(projections, outputs)}
        return LossOutput(sum(output.loss for output in outputs), metrics)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., V), of the first output layer."""
        _, features, weight, bias = self.projections(hidden)[0]
        return nn.functional.linear(features, weight, bias)

    def soft_targets(self, hidden: Tensor, temperature: float, alpha: float) -> list[SoftTargets]:
        """One for each output layer."""
        return [SoftTargets(features, weight, bias, temperature, alpha)
                for _, features, weight, bias in self.projections(hidden)]

    def _trained(self, projection: Projection, labels: Tensor) -> LossOutput:
        """The loss of one output layer with the labels (K,)."""
        count = _count(labels)
        cross_entropy = getattr(self, "sampled_cross_entropy", self.cross_entropy)
        loss, correct = cross_entropy(*projection[1:], labels, self.label_smoothing())
        return LossOutput(loss, {"loss": Metric(loss.detach(), count), "acc": Metric(correct, count)})

    def _distilled(self, projection: Projection, labels: Tensor, soft: SoftTargets) -> LossOutput:
        """The loss of one output layer with the labels (K,) and a teacher."""
        count = _count(labels)
        mixed = linear_distillation(*projection[1:], labels, soft)
        loss = mixed.hard + (mixed.objective - mixed.objective.detach())  # not finite where the objective is not
        finite = torch.isfinite(mixed.objective.detach())
        distillation_loss = Metric(torch.where(finite, mixed.soft, 0.0), torch.where(finite, count, 0.0))
        return LossOutput(loss, {"loss": Metric(mixed.hard, count), "acc": Metric(mixed.correct, count),
                                 "distillation loss": distillation_loss})


class ClassTarget(Target):
    """A target that predicts one of a few classes."""

    def forward(self, hidden: Tensor, labels: Tensor, soft: Sequence[SoftTargets] | None = None) -> LossOutput:
        """hidden (K, H), labels (K,) -> the summed cross-entropy."""
        logits, count = self.logits(hidden).float(), _count(labels)
        loss = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        correct = (logits.argmax(-1) == labels).sum().float()
        return LossOutput(loss, {"loss": Metric(loss.detach(), count), "acc": Metric(correct, count)})


def _count(labels: Tensor) -> Tensor:
    """How many labels are not IGNORED; 0-dim float32."""
    return (labels != IGNORED).sum().float()
