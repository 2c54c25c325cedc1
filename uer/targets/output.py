"""What a pretraining objective returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class LossOutput:
    """A loss to be minimised and the figures of a report, all on the device.

    Attributes:
        loss: 0-dim. A target's own loss is a sum over its predictions; the model's is divided by their number.
        metrics: name -> (numerator, denominator), 0-dim and detached: sums may be added over batches and ranks before
            one is divided by the other.
    """

    loss: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]]
