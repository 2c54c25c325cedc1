"""What the layers over the vocabulary take from the training data: the frequencies of its tokens."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from uer.errors import UserError
from uer.layers.linear import weight_and_bias
from uer.model import Model
from uer.targets.base import VocabularyTarget

Counts = Callable[[str, int], np.ndarray]
"""("src" or "tgt", V) -> (V,) how frequent each token of this side is in the training data."""


def sample_softmax(model: Model, entries: int, counts: Counts) -> None:
    """Let the targets over the vocabulary compute only `entries` logits of each prediction while training.

    Raises:
        UserError: this model cannot.
    """
    for target, frequencies in _counted(model, counts, "--sampled_softmax"):
        if entries >= len(frequencies):
            raise UserError(f"--sampled_softmax {entries}: the vocabulary has only {len(frequencies):,} entries")
        if target.label_smoothing():
            raise UserError("--sampled_softmax: label smoothing needs all entries")
        target.sample_softmax(frequencies, entries)


@torch.no_grad()
def start_at_frequencies(model: Model, counts: Counts) -> None:
    """Let the output biases start at the logarithms of the tokens' frequencies, so that a new model predicts these
    at once. A token that does not occur counts as one that occurs once.

        counts [7, 1, 0]  ->  log [7/9, 1/9, 1/9]

    Raises:
        UserError: no output layer over the vocabulary has a bias.
    """
    biases = [(weight_and_bias(target.get_submodule(target.output))[1], frequencies)
              for target, frequencies in _counted(model, counts, "--output_bias_init")]
    if all(bias is None for bias, _ in biases):
        raise UserError("--output_bias_init: the output layers of this model have no bias")
    for bias, frequencies in biases:
        if bias is not None:
            present = frequencies.clamp(min=1).double()
            bias.copy_((present / present.sum()).log())


def has_output_bias(model: Model) -> bool:
    """Whether an output layer over the vocabulary has a bias, for `start_at_frequencies`."""
    return any(weight_and_bias(target.get_submodule(target.output))[1] is not None
               for target in model.target.values() if isinstance(target, VocabularyTarget))


def _counted(model: Model, counts: Counts, flag: str) -> Iterator[tuple[VocabularyTarget, Tensor]]:
    """The targets over the vocabulary, each with the frequencies (V,) of its entries.

    Raises:
        UserError: there is none; the message names the `flag`.
    """
    targets = {name: target for name, target in model.target.items() if isinstance(target, VocabularyTarget)}
    if not targets:
        raise UserError(f"{flag}: --target {' '.join(model.target)} predicts no entry of the vocabulary")
    for name, target in targets.items():
        side = model.side(name)
        yield target, torch.from_numpy(counts(side, model.tgt_vocab_size if side == "tgt" else model.vocab_size))
