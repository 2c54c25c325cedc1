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
class Queries:
    """The tokens whose last hidden state is wanted, the same number in every row of a group.

    Attributes:
        index: (K,) the tokens, as rows of the flat matrix (N, H), group by group.
        slots: (K,) which entry of the flattened (B, P) request each one answers.
        groups: for each group of the layout, its queries as rows of the (K, H) matrix.
    """

    index: Tensor
    slots: Tensor
    groups: list[Group]


@dataclass
class Layout:
    """How the (B, S) positions of a batch map to the N tokens that are computed.

    Attributes:
        seg: (B, S) segment numbers; 0 is padding.
        groups: the rows, by length.
        order: (rows,) the batch row of each row of the groups, in their order; None where they are in the batch's.
        index: (N,) flat position `row * S + column` of each token; None where every position is computed, in order.
        masks: group number -> what is added to its attention scores, (rows or 1, 1, length or 1, length).
        starts: (B, S) the column where each position's document begins; None where a row is one document.
    """

    seg: Tensor
    groups: list[Group]
    order: Tensor | None = None
    index: Tensor | None = None
    masks: dict[int, Tensor] = field(default_factory=dict)
    starts: Tensor | None = None

    def gather(self, positions: Tensor) -> Tensor:
        """(B, S, ...) -> (N, ...): the computed positions' entries."""
        flat = positions.flatten(0, 1)
        return flat if self.index is None else flat[self.index]

    def columns(self) -> Tensor:
        """(N,) each token's place in its row, or in its document where a row has several."""
        batch, length = self.seg.shape
        columns = torch.arange(length, device=self.seg.device)
        columns = columns.repeat(batch) if self.index is None else self.index % length
        return columns if self.starts is None else columns - self.gather(self.starts)

    def scatter(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (B, S, H), with zeros at positions that were not computed."""
        batch, length = self.seg.shape
        if self.index is None:
            return hidden.view(batch, length, -1)
        flat = hidden.new_zeros(batch * length, hidden.shape[-1])
        return flat.index_copy(0, self.index, hidden).view(batch, length, -1)

    def mask(self, number: int, queries: Queries | None) -> Tensor | None:
        """What is added to a group's attention scores, for all of its tokens or for the queries alone.

        Returns:
            (rows or 1, 1, length or 1, length), or (rows, 1, queries, length); None where every key may be seen.
        """
        mask = self.masks.get(number)
        if mask is None or queries is None or mask.shape[2] == 1:
            return mask
        start, rows, count = queries.groups[number]
        tokens = queries.index[start:start + rows * count] - self.groups[number].start
        return mask.expand(rows, -1, -1, -1).flatten(0, 2).index_select(0, tokens).view(rows, 1, count, -1)

    def queries(self, columns: Tensor, valid: Tensor) -> Queries:
        """Where the wanted tokens lie.

        Args:
            columns: (B, P) places in the row.
            valid: (B, P) which of them are wanted. The others are answered too where that keeps the number of a
                group's rows the same: on a GPU all of them, so that shapes are static.
        """
        rows, wanted = columns.shape
        if self.order is None and static_shapes(columns):
            index = torch.arange(rows, device=columns.device)[:, None] * self.seg.shape[1] + columns
            return Queries(index.flatten(), torch.arange(rows * wanted, device=columns.device),
                           [Group(0, rows, wanted)])
        first = torch.argsort((~valid).byte(), dim=1, stable=True)  # wanted ones to the front
        columns = torch.where(valid, columns, 0).gather(1, first)
        slots = torch.arange(rows, device=columns.device)[:, None] * wanted + first
        if self.order is not None:
            columns, slots, valid = columns[self.order], slots[self.order], valid[self.order]
        counts = valid.sum(1).tolist()
        parts, groups, row, start = [], [], 0, 0
        for group in self.groups:
            count = max(counts[row:row + group.rows])
            here = slice(row, row + group.rows)
            token = torch.arange(group.rows, device=columns.device)[:, None] * group.length + group.start
            parts.append(((token + columns[here, :count]).flatten(), slots[here, :count].flatten()))
            groups.append(Group(start, group.rows, count))
            row, start = row + group.rows, start + group.rows * count
        return Queries(torch.cat([index for index, _ in parts]), torch.cat([slot for _, slot in parts]), groups)


def static_shapes(tensor: Tensor) -> bool:
    """Whether shapes must not depend on values: reading a number back from a GPU stalls it, and breaks a graph."""
    return tensor.device.type != "cpu" or torch.compiler.is_compiling()


def document_starts(src: Tensor, first_token: int) -> Tensor:
    """src (B, S) -> (B, S) the column of the last `first_token` up to each position; 0 before the first one.

        first_token 9:  [[5, 6, 9, 5, 9, 7]]  ->  [[0, 0, 2, 2, 4, 4]]
    """
    columns = torch.arange(src.shape[1], device=src.device)
    return torch.where(src == first_token, columns, 0).cummax(dim=1).values


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
    if not groups:
        return padded_layout(seg)  # nothing but padding: there must be something to compute
    return Layout(seg, groups, order[:sum(group.rows for group in groups)], order[row] * seg.shape[1] + column)
