"""The input of the model, and the stored rows that it is made from.

    src.values   [[2, 7, 4, 9, 3],     labels["mlm"].values     [[8],      predict 8 at position 2 of the first row
                  [2, 5, 3, 0, 0]]     labels["mlm"].positions  [[2],      and 6 at position 1 of the second
    src.seg      [[1, 1, 1, 1, 1],                  [[8],       [1]]
                  [1, 1, 1, 0, 0]]                   [6]]

There are three kinds of labels: at some positions (B, P), as above; at every position of a side (B, S, ...), without
`positions`, as for a language model; and one for each row, which is a label at position 0 with P = 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORED = -100
"""The label where nothing is predicted."""


@dataclass(frozen=True)
class Side:
    """One sequence of each row, padded on the right."""

    values: Tensor
    """(B, S) int64 token ids, masked where the objective masks; or (B, S, F) features."""
    seg: Tensor
    """(B, S) int64: 1 on tokens, 2 on a second part, 0 on padding."""


@dataclass(frozen=True)
class Labels:
    """What a target predicts."""

    values: Tensor
    """(B, P, ...) int64 at `positions`, or (B, S, ...) at every position; IGNORED where nothing is predicted."""
    positions: Tensor | None = None
    """(B, P) int64 positions in the row; any position where the value is IGNORED."""
    side: str = "src"
    """Whose positions these are: "src" or "tgt"."""

    def wanted(self) -> Tensor:
        """(B, P) or (B, S) bool: where something is predicted. Several values of a position count as one."""
        wanted = self.values != IGNORED
        return wanted if wanted.dim() == 2 else wanted.flatten(2).any(2)


@dataclass(frozen=True)
class Packing:
    """The size of a batch without padding, for shapes that do not depend on values; see `uer.data.packing`."""

    tokens: int
    """T, more than the batch has."""
    predictions: int
    """K, at least as many as the batch has positions to predict at."""
    sequences: int
    """At least as many as there are rows, or documents where attention stays inside of them."""
    tgt_tokens: int = 0
    """More than the batch has on the target side; 0 where it has none."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch of B rows."""

    src: Side
    labels: dict[str, Labels]
    """By the name of the target that they are for."""
    samples: Tensor
    """(B,) int64: number of each row in the whole run, the key to everything about it."""
    tgt: Side | None = None
    """The decoder's input, where there is a decoder."""
    packing: Packing | None = None
    """Lay the rows end to end in this size; None: compute padding too, or leave it out by reading the lengths."""

    def counts(self) -> dict[str, Tensor]:
        """For each target, how many positions are predicted; 0-dim float32."""
        return {name: labels.wanted().sum().float() for name, labels in self.labels.items()}

    def token_slots(self) -> int:
        """Positions of the batch, of both sides, padding included."""
        return sum(side.seg.numel() for side in self._sides().values())

    def real_tokens(self) -> Tensor:
        """How many positions of both sides are no padding; 0-dim int64."""
        return sum((side.seg > 0).sum() for side in self._sides().values())

    def row_tokens(self) -> Tensor:
        """(B,) int64: each row's positions, of both sides, that are no padding."""
        return sum((side.seg > 0).sum(1) for side in self._sides().values())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def rows(self, start: int, stop: int) -> "Batch":
        """Rows `start` to `stop` - 1, as views."""
        return self._each(lambda tensor: tensor[start:stop])

    def select(self, rows: Tensor) -> "Batch":
        """The rows of these numbers (R,) int64, in their order."""
        return self._each(lambda tensor: tensor[rows])

    def trimmed(self) -> "Batch":
        """The batch without the positions that are padding in every row. It reads the lengths, so CUDA would wait.

            seg [[1, 1, 0, 0], [1, 1, 1, 0]]  ->  [[1, 1, 0], [1, 1, 1]], and labels (B, 4) -> (B, 3)
        """
        longest = {name: max(1, int((side.seg > 0).sum(1).max())) for name, side in self._sides().items()}
        cut = {name: Side(side.values[:, :longest[name]].contiguous(), side.seg[:, :longest[name]].contiguous())
               for name, side in self._sides().items()}
        labels = {name: part if part.positions is not None else
                  replace(part, values=part.values[:, :longest[part.side]].contiguous())
                  for name, part in self.labels.items()}
        return replace(self, src=cut["src"], labels=labels, tgt=cut.get("tgt"))

    def without(self, filling: Tensor) -> "Batch":
        """The batch without the labels of the rows where `filling` (B,) bool is true.

        These rows keep their tokens: attention is not defined for a row that is only padding.
        """
        def emptied(values: Tensor) -> Tensor:
            return values.masked_fill(filling.view(-1, *[1] * (values.dim() - 1)), IGNORED)

        labels = {name: replace(part, values=emptied(part.values)) for name, part in self.labels.items()}
        return replace(self, labels=labels)

    def _sides(self) -> dict[str, Side]:
        return {"src": self.src} if self.tgt is None else {"src": self.src, "tgt": self.tgt}

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        sides = {name: Side(change(side.values), change(side.seg)) for name, side in self._sides().items()}
        labels = {name: replace(part, values=change(part.values),
                                positions=None if part.positions is None else change(part.positions))
                  for name, part in self.labels.items()}
        return Batch(sides["src"], labels, change(self.samples), sides.get("tgt"), self.packing)


@dataclass(frozen=True)
class Rows:
    """R stored instances, the argument of a processor's `batch`, which may change the tensors in place."""

    columns: Mapping[str, Tensor]
    """By the schema's names: (R, S) for a value a token, S the longest row there is of that sequence, and behind a
    row's length anything; (R,) for a value an instance. Token ids and values of instances are int64."""
    lengths: Mapping[str, Tensor]
    """For each sequence ("src", "tgt"), (R,) int64: its tokens in each row."""
    keys: Tensor
    """(R,) int64 below 2^32: what a row's random draws depend on, and nothing else."""
    samples: Tensor
    """(R,) int64: number of each row in the whole run."""
