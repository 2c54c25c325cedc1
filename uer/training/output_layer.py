"""What the layers over the vocabulary take from the training data: the frequencies of its tokens."""

from collections.abc import Iterator

import torch
from torch import Tensor

from uer.data.token_counts import token_counts
from uer.errors import UserError
from uer.layers.linear import weight_and_bias
from uer.model import Model
from uer.targets.base import VocabularyTarget
from uer.training.inputs import Data, Settings


def sample_softmax(model: Model, data: Data, settings: Settings) -> None:
    """Let the targets over the vocabulary compute only --sampled_softmax logits of each prediction, if it is not 0.

    Raises:
        UserError: the flag has no use here.
    """
    entries = settings.train.sampled_softmax
    if not entries:
        return
    if settings.distillation.teacher_model_path:
        raise UserError("--sampled_softmax: the distribution of --teacher_model_path has all entries")
    for target, counts in _counted(model, data, "--sampled_softmax"):
        if entries >= len(counts):
            raise UserError(f"--sampled_softmax {entries}: the vocabulary has only {len(counts):,} entries")
        if target.label_smoothing():
            raise UserError("--sampled_softmax: label smoothing needs all entries")
        target.sample_softmax(counts, entries)


@torch.no_grad()
def start_at_frequencies(model: Model, data: Data) -> None:
    """Let the output biases start at the logarithms of the tokens' frequencies, so that a new model predicts these
    at once. A token that does not occur counts as one that occurs once.

        counts [7, 1, 0]  ->  log [7/9, 1/9, 1/9]

    Raises:
        UserError: no output layer over the vocabulary has a bias.
    """
    biases = [(weight_and_bias(target.get_submodule(target.output))[1], counts)
              for target, counts in _counted(model, data, "--output_bias_init")]
    if all(bias is None for bias, _ in biases):
        raise UserError("--output_bias_init: the output layers of this model have no bias")
    for bias, counts in biases:
        if bias is not None:
            counts = counts.clamp(min=1).double()
            bias.copy_((counts / counts.sum()).log())


def _counted(model: Model, data: Data, flag: str) -> Iterator[tuple[VocabularyTarget, Tensor]]:
    """The targets over the vocabulary, each with the frequencies (V,) of its entries in the training data.

    Raises:
        UserError: there is none; the message names the `flag`.
    """
    targets = {name: target for name, target in model.target.items() if isinstance(target, VocabularyTarget)}
    if not targets:
        raise UserError(f"{flag}: --target {' '.join(model.target)} predicts no entry of the vocabulary")
    for name, target in targets.items():
        side = model.side(name)
        size = data.tgt_vocab_size if side == "tgt" else data.vocab_size
        yield target, torch.from_numpy(token_counts(data.train, side, size))
