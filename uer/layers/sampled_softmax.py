"""The cross-entropy of a large vocabulary from a part of its entries (Jean et al., 2015, "On Using Very Large Target
Vocabulary for Neural Machine Translation"): in training, where the output layer costs most of a small model's time.

In a Chinese corpus, a sixth of the 21,128 entries of google_zh_vocab make up 99% of the tokens. The softmax sums over
the most frequent entries, the labels, and a sample of the others, which stands for all: its exponentials are multiplied
by how many entries each of them represents, so that the sum's expected value is that over the whole vocabulary.
"""

import torch
from torch import Tensor, nn

from uer.layers.cpu.random_bits import uniform
from uer.layers.cross_entropy import IGNORED, linear_cross_entropy

SAMPLED_PART = 8
"""One of so many entries of the softmax is drawn anew for each update; the others are the most frequent ones."""


class SampledCrossEntropy(nn.Module):
    """`linear_cross_entropy` that computes `entries` of the V logits while training, and all of them otherwise.

    Draws from the same generators as dropout. It has no parameters and adds nothing to a state dict.
    """

    def __init__(self, counts: Tensor, entries: int) -> None:
        """
        Args:
            counts: (V,) how frequent each entry is in the training data.
            entries: how many are computed, from SAMPLED_PART to V - 1.
        """
        super().__init__()
        assert SAMPLED_PART <= entries < len(counts)
        self.sampled = entries // SAMPLED_PART
        order = counts.argsort(descending=True, stable=True)
        self.register_buffer("frequent", order[:entries - self.sampled], persistent=False)  # (F,)
        self.register_buffer("rare", order[entries - self.sampled:], persistent=False)  # (R,) the others

    def forward(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor,
                label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """The arguments and the result of `linear_cross_entropy`; the loss is an estimate while training."""
        if not self.training:
            return linear_cross_entropy(hidden, weight, bias, labels, label_smoothing)
        assert not label_smoothing, "label smoothing needs all entries"
        entries, log_weights = self.draw(labels)
        position = labels.new_full((len(weight),), IGNORED).scatter_(
            0, entries, torch.arange(len(entries), device=labels.device))  # (V,): where an entry is among the drawn
        chosen_labels = torch.where(labels != IGNORED, position[labels.clamp(min=0)], IGNORED)
        offsets = log_weights if bias is None else bias[entries] + log_weights
        return linear_cross_entropy(hidden, weight[entries], offsets, chosen_labels)

    def draw(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The entries of a softmax, and what is added to their logits.

        Rare entries that are labels come first and count once. Of the others, each drawn one stands for several:

            frequent [5, 2], rare [0, 1, 3, 4], 2 to be drawn, labels [2, 3]
            3 is a label; one of the three others is drawn, say 0, and stands for 3 / 1 of them
            entries [5, 2, 3, 0], log_weights [0, 0, 0, log 3]

        A label that finds no room among the drawn does not count in the loss. With an eighth of the entries to be drawn
        that would need thousands of rare labels in one micro-batch.

        Args:
            labels: (K,) entries, or IGNORED.

        Returns:
            (C,) the entries, each once, and (C,) the logarithms of their weights.
        """
        total = len(self.frequent) + len(self.rare)
        wanted = torch.zeros(total + 1, device=labels.device)  # the last element is for IGNORED
        wanted = wanted.scatter_(0, torch.where(labels != IGNORED, labels, total), 1.0)[self.rare]  # (R,)
        order = (uniform(len(self.rare), labels.device) - wanted).topk(self.sampled, largest=False).indices
        chosen = wanted[order]
        others = (self.sampled - chosen.sum()).clamp(min=1.0)
        weight = (len(self.rare) - wanted.sum()) / others
        log_weights = torch.where(chosen > 0, 0.0, weight.clamp(min=1.0).log())
        return torch.cat([self.frequent, self.rare[order]]), torch.cat([log_weights.new_zeros(len(self.frequent)),
                                                                        log_weights])
