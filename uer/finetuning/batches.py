"""Examples in memory, and batches of them.

An example has `ways` rows of tokens (1 for a classifier, 2 for a siamese pair, one for each choice of a question) and
targets. With ways = 2, example i has the rows 2i and 2i + 1:

    example   0        1        2
    rows      0  1     2  3     4  5

The order of the examples is a function of (seed, epoch) and so is the same for any number of ranks.

Training batches are drawn uniformly. Batches of rows of similar length would need less padding, but such batches are
biased if the length depends on the label. On CPUs the encoder skips padding anyway.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from uer.data.batch import IGNORED
from uer.finetuning.rows import Ragged, Sequences


@dataclass(frozen=True)
class Batch:
    """One batch of a task: B rows of S positions, padded on the right."""

    src: Tensor
    """(B, S) int64 token ids."""
    seg: Tensor
    """(B, S) int64: 1 on tokens, 2 on a second text, 0 on padding."""
    targets: dict[str, Tensor] = field(default_factory=dict)
    """What the task's loss and predictions ask for, by its own names; one value an example, or (B, S)."""

    @property
    def real_tokens(self) -> Tensor:
        """(B,) int64: tokens of each row that are no padding."""
        return (self.seg > 0).sum(1)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device."""
        return Batch(self.src.to(device), self.seg.to(device),
                     {name: value.to(device) for name, value in self.targets.items()})


@dataclass(frozen=True)
class Examples:
    """The examples of one file as token ids and targets.

    Attributes:
        rows: `ways` consecutive rows for each example; N * ways rows of token ids.
        targets: arrays (N, ...), the values for each example: for instance `label` (N,) int64, `span` (N, 2) int64.
        token_targets: one integer for each token of `rows`; `collate` pads them with IGNORED.
        info: what the task's metrics and predictions need beside the model's outputs (texts, ids, line numbers).
        groups: (N,) int64, the group of each example where a training batch may hold examples of one group only.
        hash: SHA-256 of the file; the logs name it.
        skipped: what the reader left out, and how often.
    """

    rows: Sequences
    ways: int = 1
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    token_targets: dict[str, Ragged] = field(default_factory=dict)
    info: dict[str, object] = field(default_factory=dict)
    groups: np.ndarray | None = None
    hash: str = ""
    skipped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.rows) // self.ways

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64, the number of tokens in the longest row of each example."""
        return self.rows.lengths.reshape(-1, self.ways).max(axis=1)

    def tokens_of(self, chosen: np.ndarray) -> np.ndarray:
        """(n,) int64, the number of tokens in all rows of each chosen example."""
        offsets = self.rows.tokens.offsets
        return offsets[(chosen + 1) * self.ways] - offsets[chosen * self.ways]


def subset(examples: Examples, chosen: np.ndarray) -> Examples:
    """Select examples, in the given order; not for examples with token targets.

    Args:
        chosen: (n,) int64, indices of examples.
    """
    assert not examples.token_targets
    rows = (chosen[:, None] * examples.ways + np.arange(examples.ways)).reshape(-1)
    return Examples(Sequences(Ragged.of([examples.rows.tokens[row] for row in rows]), examples.rows.first[rows]),
                    examples.ways, {name: values[chosen] for name, values in examples.targets.items()},
                    hash=examples.hash)


def epoch_batches(examples: Examples, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch: a permutation of the examples drawn from (seed, epoch), cut into pieces.

    Where examples have groups, each group is cut into pieces of its own, and the pieces come in random order.

    Returns:
        Arrays (batch_size,) int64 of example indices; the last one, or the last of a group, may be shorter.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(examples))
    if examples.groups is None:
        return _pieces(order, batch_size)
    groups = examples.groups[order]
    batches = [piece for group in np.unique(groups) for piece in _pieces(order[groups == group], batch_size)]
    return [batches[number] for number in generator.permutation(len(batches))]


def _pieces(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[at:at + size] for at in range(0, len(order), size)]


def batches_in_epoch(examples: Examples, batch_size: int) -> int:
    """The number of batches that `epoch_batches` returns: 3 for 10 examples in batches of 4, the last one of 2."""
    sizes = [len(examples)] if examples.groups is None else np.bincount(examples.groups).tolist()
    return sum(-(-size // batch_size) for size in sizes)


def evaluation_batches(examples: Examples, batch_size: int) -> list[np.ndarray]:
    """Batches with every example once, the longest first: if memory does not suffice, the first batch shows it.

    Returns:
        Arrays (batch_size,) int64 of example indices; the last one may be shorter.
    """
    return _pieces(np.argsort(-examples.lengths, kind="stable"), batch_size)


def collate(examples: Examples, chosen: np.ndarray, pad_id: int) -> Batch:
    """The rows of the chosen examples, padded to the longest of them.

    Rows [2 7 3] (a text) and [2 7 3 8 9 3] (a pair; 3 is [SEP]) become, with pad_id 0,

        src  2 7 3 0 0 0      seg  1 1 1 0 0 0
             2 7 3 8 9 3           1 1 1 2 2 2

    Args:
        chosen: (n,) int64, indices of examples.
        pad_id: token id of [PAD].

    Returns:
        Batch: src and seg are (B, S) int64 with B = n * ways; token targets have the same shape, other targets
        (n, ...).
    """
    # (B,): the rows of the examples, those of one example next to each other.
    rows = (chosen[:, None] * examples.ways + np.arange(examples.ways)).reshape(-1)
    starts = examples.rows.tokens.offsets[rows]
    lengths = examples.rows.tokens.offsets[rows + 1] - starts
    positions = np.arange(lengths.max())  # (S,)
    # (B, S) from here on: where a token is, and its index in `values`, in which all rows follow one another.
    real = positions < lengths[:, None]
    index = np.where(real, starts[:, None] + positions, 0)
    src = np.where(real, examples.rows.tokens.values[index], pad_id)
    seg = np.where(real, np.where(positions < examples.rows.first[rows][:, None], 1, 2), 0)
    targets = {name: torch.from_numpy(values[chosen]) for name, values in examples.targets.items()}
    for name, ragged in examples.token_targets.items():
        targets[name] = torch.from_numpy(np.where(real, ragged.values[index], IGNORED).astype(np.int64))
    return Batch(src=torch.from_numpy(src.astype(np.int64)), seg=torch.from_numpy(seg.astype(np.int64)),
                 targets=targets)


def shard(chosen: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """This rank's part of a batch: every `world_size`-th example, beginning with the `rank`-th.

    >>> shard(np.array([5, 3, 8, 1, 9]), 1, 2).tolist()
    [3, 1]
    """
    return chosen[rank::world_size]


def padding_share(examples: Examples, batches: Iterator[np.ndarray] | list[np.ndarray]) -> float:
    """The fraction of computed positions that are padding, between 0 and 1."""
    lengths = examples.rows.lengths.reshape(-1, examples.ways)
    computed = sum(lengths[batch].max() * lengths[batch].size for batch in batches)
    return 1.0 - lengths.sum() / computed
