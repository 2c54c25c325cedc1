"""Where the tokens of a batch lie when rows are laid end to end, with or without their padding.

A transformer's linear layers, norms and dropouts see one matrix (N, H) and need not know which row a token belongs to;
only attention does. A `Layout` tells it: N is B * S where padding is kept, and the number of real tokens where it is
left out.

    seg          padded: one group, rows=3, length=4        unpadded: two groups, no padding anywhere
    1 1 1 1      0  1  2  3                                  0 1 2 3
    1 1 0 0      4  5  6  7                                  4 5 | 6 7
    1 1 0 0      8  9 10 11
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Group(NamedTuple):
    """Neighbouring rows of one length: tokens [start, start + rows * length) of the flat matrix."""

    start: int
    rows: int
    length: int


@dataclass
class Layout:
    """How the (B, S) positions of a batch map to the N tokens that are computed.

    Attributes:
        seg: (B, S) segment numbers; 0 is padding.
        groups: the rows, by length.
        index: (N,) flat position `row * S + column` of each token; None where every position is computed, in order.
    """

    seg: Tensor
    groups: list[Group]
    index: Tensor | None = None
    masks: dict[int, Tensor] = field(default_factory=dict)

    def gather(self, positions: Tensor) -> Tensor:
        """(B, S, ...) -> (N, ...): the computed positions' entries."""
        flat = positions.flatten(0, 1)
        return flat if self.index is None else flat[self.index]

    def columns(self) -> Tensor:
        """(N,) each token's place in its row."""
        batch, length = self.seg.shape
        columns = torch.arange(length, device=self.seg.device)
        return columns.repeat(batch) if self.index is None else self.index % length

    def scatter(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (B, S, H), with zeros at positions that were not computed."""
        batch, length = self.seg.shape
        if self.index is None:
            return hidden.view(batch, length, -1)
        flat = hidden.new_zeros(batch * length, hidden.shape[-1])
        return flat.index_copy(0, self.index, hidden).view(batch, length, -1)

    def select(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """(N, H), (K,) flat positions `row * S + column` -> (K, H): the hidden states there.

        Where padding is left out, a padding position must not be asked for.
        """
        if self.index is None:
            return hidden.index_select(0, positions)
        place = torch.empty(self.seg.numel(), dtype=torch.int64, device=self.seg.device)
        place[self.index] = torch.arange(len(self.index), device=self.seg.device)
        return hidden.index_select(0, place[positions])


def padded_layout(seg: Tensor) -> Layout:
    """Every position of `seg` (B, S) is computed. Shapes are static and nothing is read back from the device."""
    batch, length = seg.shape
    return Layout(seg, [Group(0, batch, length)])


def unpadded_layout(seg: Tensor) -> Layout:
    """Only positions with seg > 0 are computed, rows sorted by length so that equal lengths form one group.

    Padding must lie at the end of its row. Reads the lengths back from the device.
    """
    real = seg > 0
    lengths = real.sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    row, column = real[order].nonzero(as_tuple=True)
    sizes, rows = torch.unique_consecutive(lengths[order], return_counts=True)
    groups, start = [], 0
    for length, count in zip(sizes.tolist(), rows.tolist()):
        if length:
            groups.append(Group(start, count, length))
            start += count * length
    return Layout(seg, groups, order[row] * seg.shape[1] + column)
