"""Static sizes for batches without padding: how many slots a batch takes when its rows are laid end to end.

On a GPU shapes must not depend on values: reading a length back stalls the device, and compiled kernels and CUDA graphs
are made for one shape. So a batch without padding gets one of a few sizes, the smallest that holds it, and the host
knows which before the device needs to (`uer.data.loader` measures batches some updates ahead).

    micro-batches of 64 rows of up to 128 tokens: 8,192 positions, of which 3,240, 3,410 and 3,105 are tokens
    sizes  3,152  3,280  3,408  3,536  3,808, or all 8,192 with their padding
    taken  3,280  3,536  3,152

The model fills what is left of a size with tokens that nothing depends on.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from uer.data.batch import Batch, Packing

SAMPLED = 32
"""Micro-batches that are measured to choose the sizes."""
DEVIATIONS = (-1, 0, 1, 2, 4)
"""Sizes, as standard deviations from the mean number of tokens. With steps of one, half of one is unused on average."""
MULTIPLE = 16  # of the rows of a matrix, which GPUs divide evenly
WORTH_PACKING = 0.97
"""A size with more of the positions than this saves nothing."""


def measured(batch: Batch, rows: int, document_start: int | None) -> Tensor:
    """What each micro-batch needs: (micro-batches, 3) int64 tokens, predicted positions and sequences; where there is a
    target side (micro-batches, 4), with its tokens.

    Args:
        batch: micro-batches of `rows` rows each, one after the other.
        document_start: id of the token that each document of a row begins with; None where a row is one sequence.
    """
    tokens = (batch.src.seg > 0).sum(1)  # (R,), like all below
    predictions = sum((labels.wanted().sum(1) for labels in batch.labels.values() if labels.positions is not None),
                      torch.zeros_like(tokens))
    sequences = torch.ones_like(tokens)
    if document_start is not None:  # a row that begins inside a document has one more
        sequences = (batch.src.values == document_start).sum(1) + (batch.src.values[:, 0] != document_start)
    needs = [tokens, predictions, sequences] + ([(batch.tgt.seg > 0).sum(1)] if batch.tgt is not None else [])
    return torch.stack(needs, 1).view(-1, rows, len(needs)).sum(1)


class Needs:
    """What `measured` returns, on its way to the host: reading it waits only if the device has not come so far."""

    def __init__(self, needs: Tensor) -> None:
        self._needs, self._copied = needs, None
        if needs.device.type == "cuda":
            self._needs = torch.empty_like(needs, device="cpu", pin_memory=True).copy_(needs, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> list[list[int]]:
        """For each micro-batch, what `measured` says of it."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._needs.tolist()


def choose_sizes(sample: Sequence[Sequence[int]], positions: int) -> list[Packing]:
    """The sizes for micro-batches like these, ascending; [] where hardly any position is padding.

    Args:
        sample: of some micro-batches, what `measured` says.
        positions: of a micro-batch on the source side, padding included.
    """
    tokens = torch.tensor([need[0] for need in sample], dtype=torch.float64)
    mean, deviation = float(tokens.mean()), float(tokens.std(correction=0))
    sizes = sorted({_rounded(mean + number * deviation + 1) for number in DEVIATIONS})
    # Predictions, sequences and tokens of the target side for each token of the source side.
    most = [max(need[part] / need[0] for need in sample) for part in range(1, len(sample[0]))]
    fixed = len({need[2] for need in sample}) == 1  # one sequence a row
    return [Packing(size, _rounded(most[0] * size),
                    sample[0][2] if fixed else _rounded(most[1] * size), _rounded(sum(most[2:]) * size))
            for size in sizes if 0 < size <= WORTH_PACKING * positions]


def smallest(sizes: Sequence[Packing], need: Sequence[int]) -> Packing | None:
    """The first of the ascending sizes that holds a micro-batch that needs so much (see `measured`); None where none
    does, so that the batch keeps its padding.

    At least one token of each side stays free: attention is not defined for queries without keys.

    >>> smallest([Packing(128, 32, 8), Packing(256, 48, 8)], (128, 20, 8))
    Packing(tokens=256, predictions=48, sequences=8, tgt_tokens=0)
    """
    tokens, predictions, sequences, *tgt_tokens = need
    return next((size for size in sizes if tokens < size.tokens and predictions <= size.predictions
                 and sequences <= size.sequences and all(count < size.tgt_tokens for count in tgt_tokens)), None)


def _rounded(number: float) -> int:
    """`number` rounded up to a multiple of `MULTIPLE`."""
    return math.ceil(number / MULTIPLE) * MULTIPLE
