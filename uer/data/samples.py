"""Which instance of which dataset each sample of a run is, and which instances are held out from training.

Both are functions of numbers: no list is shuffled and nothing is drawn, so that a sample is the same one for any number
of ranks, and after any restart. `uer.data.loader` says which samples a rank's batches have.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uer.data.hashing import hash_words
from uer.data.order import permute
from uer.data.store import TokenDataset
from uer.errors import UserError

MIXTURE_SLOTS = 10_000
"""With --dataset_weights: samples of a round. In each round every dataset has its fraction, rounded to 1 / 10,000."""

# The purposes of the hashes: each purpose gives other random numbers.
ORDER, MASKS, MIXTURE, DEV_SPLIT, DEV_MASKS = range(1, 6)


@dataclass(frozen=True)
class TrainPart:
    """The training samples of one dataset: their order and their keys.

    A sample is one of `versions` versions of an instance that is not held out; static masks differ between versions.
    """

    dataset: TokenDataset
    number: int
    seed: int
    dev_fraction: float

    @property
    def stored(self) -> int:
        """Instances that are not held out."""
        return len(self.dataset) - held_out_instances(self.dataset, self.dev_fraction)

    @property
    def versions(self) -> int:
        """Versions of each instance in an epoch."""
        return 1 if self.dataset.info.dynamic_masking else self.dataset.info.dup_factor

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return self.stored * self.versions

    @property
    def tokens(self) -> int:
        """Tokens of an epoch; held-out instances are counted with the average length."""
        return self.dataset.tokens_num * self.samples // len(self.dataset)

    def instances(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of this dataset's samples (R,) -> the stored instances (R,), and the keys of their masks (R,).

        With 5 instances in 2 versions, sample 13 is number 3 of epoch 1. If the order of this epoch puts 7 there, the
        sample is version 1 (7 // 5) of instance 2 (7 % 5).
        """
        epoch, index = numbers // self.samples, numbers % self.samples
        shuffled = permute(index, self.samples, hash_words(self.seed, ORDER, self.number), epoch)
        version, stored = shuffled // self.stored, shuffled % self.stored
        if self.dev_fraction:
            held_out = len(self.dataset) - self.stored
            stored = split_order(stored + held_out, len(self.dataset))
        if self.dataset.info.dynamic_masking:
            return stored, hash_words(self.seed, MASKS, self.number, epoch, stored)
        return stored, hash_words(self.dataset.info.seed, MASKS, version, stored)


def deal(samples: Tensor, bounds: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """Sample numbers (R,) -> the dataset of each (R,), and its number among the samples of this dataset (R,).

    Samples are dealt in rounds. A round has slots in a shuffled order; the slots from bounds[d] to
    bounds[d + 1] - 1 belong to dataset d. With bounds 0 3 4 and the slots in the orders 2 3 0 1, then 0 1 3 2:

        samples    0 1 2 3    4 5 6 7
        slot       2 3 0 1    0 1 3 2
        dataset    0 1 0 0    0 0 1 0
        number     2 0 0 1    3 4 1 5      rounds * (slots of the dataset) + slot - begin
    """
    if len(bounds) == 2:
        return torch.zeros_like(samples), samples
    rounds, index = samples // bounds[-1], samples % bounds[-1]
    slot = permute(index, bounds[-1], hash_words(seed, MIXTURE), rounds)
    all_bounds = torch.tensor(bounds, device=samples.device)  # (datasets + 1,)
    dataset = torch.bucketize(slot, all_bounds[1:], right=True)
    begin, slots = all_bounds[dataset], all_bounds[dataset + 1] - all_bounds[dataset]
    return dataset, rounds * slots + slot - begin


def held_out_instances(dataset: TokenDataset, fraction: float) -> int:
    """How many instances are held out: at least one, unless `fraction` is 0."""
    if not fraction:
        return 0
    held_out = max(1, round(fraction * len(dataset)))
    if held_out >= len(dataset):
        raise UserError(f"{dataset.path}: --dev_fraction {fraction} leaves none of its {len(dataset)} instances")
    return held_out


def split_order(index: Tensor, length: int) -> Tensor:
    """The instance at each index of a fixed order, whose first instances are held out. It does not depend on --seed, so
    that a run with another seed holds out the same instances."""
    return permute(index, length, DEV_SPLIT, 0)


def mixture_slots(weights: Sequence[float]) -> list[int]:
    """Where the slots of each dataset begin in a round, and the end of the round. Every dataset has at least one slot.

    >>> mixture_slots([3, 1]), mixture_slots([1e-9, 1])
    ([0, 7500, 10000], [0, 1, 10000])
    """
    bounds = [0]
    for number, reached in enumerate(itertools.accumulate(weights), start=1):
        wanted = round(MIXTURE_SLOTS * reached / sum(weights))
        bounds.append(min(max(wanted, bounds[-1] + 1), MIXTURE_SLOTS - len(weights) + number))
    return bounds
