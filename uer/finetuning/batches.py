"""Examples in memory, and batches of them.

An example has `ways` rows of tokens (1 for a classifier, 2 for a siamese pair, one for each choice of a question) and
targets. Everything about the order is a function of (seed, epoch): the same for any number of ranks.

Training batches are drawn uniformly. Rows of similar length would need less padding, but a batch of them is biased
wherever length tells something about the label. On CPUs the encoder leaves padding out anyway.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from uer.finetuning.rows import Ragged, Sequences

IGNORED = -100


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
    """Encoded examples of one file.

    Attributes:
        rows: `ways` neighbouring rows an example.
        targets: numbers for each example, first axis = examples.
        token_targets: one number for each token of `rows`; padded with IGNORED.
        info: what the task's metrics and predictions need beside the model's outputs (texts, ids, lines).
        hash: SHA-256 of the file, for tracing a figure.
        skipped: what the reader left out, and how often.
    """

    rows: Sequences
    ways: int = 1
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    token_targets: dict[str, Ragged] = field(default_factory=dict)
    info: dict[str, object] = field(default_factory=dict)
    hash: str = ""
    skipped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.rows) // self.ways

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example's longest row."""
        return self.rows.lengths.reshape(-1, self.ways).max(axis=1)


def subset(examples: Examples, chosen: np.ndarray) -> Examples:
    """Some of the examples, in the given order; only for examples without token targets."""
    assert not examples.token_targets
    rows = (chosen[:, None] * examples.ways + np.arange(examples.ways)).reshape(-1)
    return Examples(Sequences(Ragged.of([examples.rows.tokens[row] for row in rows]), examples.rows.first[rows]),
                    examples.ways, {name: values[chosen] for name, values in examples.targets.items()},
                    hash=examples.hash)


def epoch_batches(examples: Examples, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch, as arrays of example numbers: a permutation made from (seed, epoch), cut in pieces."""
    order = np.random.default_rng([seed, epoch]).permutation(len(examples))
    return [order[at:at + batch_size] for at in range(0, len(order), batch_size)]


def batches_in_epoch(examples: Examples, batch_size: int) -> int:
    """How many batches `epoch_batches` gives: only the last can be smaller."""
    return -(-len(examples) // batch_size)


def evaluation_batches(examples: Examples, batch_size: int) -> list[np.ndarray]:
    """Every example once, longest first, so that memory runs out at once or never."""
    order = np.argsort(-examples.lengths, kind="stable")
    return [order[at:at + batch_size] for at in range(0, len(order), batch_size)]


def collate(examples: Examples, chosen: np.ndarray, pad_id: int) -> Batch:
    """The rows of the chosen examples, padded to the longest of them.

    Returns:
        Batch: src and seg are (len(chosen) * ways, S); token targets have the same shape.
    """
    rows = (chosen[:, None] * examples.ways + np.arange(examples.ways)).reshape(-1)
    starts = examples.rows.tokens.offsets[rows]
    lengths = examples.rows.tokens.offsets[rows + 1] - starts
    positions = np.arange(lengths.max())
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
    """This rank's part of a batch; the parts of all ranks together are the batch."""
    return chosen[rank::world_size]


def padding_share(examples: Examples, batches: Iterator[np.ndarray] | list[np.ndarray]) -> float:
    """Share of computed positions that are padding."""
    lengths = examples.rows.lengths.reshape(-1, examples.ways)
    computed = sum(lengths[batch].max() * lengths[batch].size for batch in batches)
    return 1.0 - lengths.sum() / computed
