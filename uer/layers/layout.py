"""Where the tokens of a batch lie when rows are laid end to end, with or without their padding.

A transformer's linear layers, norms and dropouts see one matrix (N, H) and need not know which row a token belongs to;
only attention does. A `Layout` tells it: N is B * S where padding is kept, and hardly more than the number of real
tokens where it is left out.

    seg          padded: one group, rows=3, length=4        unpadded: two groups, no padding anywhere
    1 1 1 1      0  1  2  3                                  0 1 2 3
    1 1 0 0      4  5  6  7                                  4 5 | 6 7
    1 1 0 0      8  9 10 11

The numbers are rows of the matrix (N, H): N is 12 with padding, 8 without it. (In so small a batch, the three rows
would be one group: a little padding costs less than another group. Here, rows of equal length only are.)
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MERGED_PADDING = 8
"""A group of rows takes as long as about 24 tokens of tiny, 9 of mini and 2 of base (measured on a CPU). With this
limit all of them come within 2% of their best groups."""


class Group(NamedTuple):
    """Neighbouring rows, `length` positions of each: tokens [start, start + rows * length) of the flat matrix."""

    start: int
    rows: int
    length: int


@dataclass(frozen=True, eq=False)
class Queries:
    """The tokens whose last hidden state is wanted, the same number in every row of a group.

    Attributes:
        index: (K,) the tokens, as rows of the flat matrix (N, H), group by group.
        requests: (K,) which entry of the flattened (B, P) request each one answers; none is answered twice.
        groups: for each group of the layout, its queries as rows of the (K, H) matrix.
        shape: (B, P).
    """

    index: Tensor
    requests: Tensor
    groups: list[Group]
    shape: tuple[int, int]

    def scatter(self, hidden: Tensor) -> Tensor:
        """(K, H) -> (B, P, H): each request's answer, zeros where there is none."""
        batch, wanted = self.shape
        flat = hidden.new_zeros(batch * wanted, hidden.shape[-1])
        return flat.index_copy(0, self.requests, hidden).view(batch, wanted, -1)


@dataclass(frozen=True, eq=False)
class Layout:
    """How the (B, S) positions of a batch map to the N tokens that are computed.

    Padding lies at the end of its row. Where `starts` is given it may lie at the beginning too (as generation needs
    it), with 0 as its start and the number of padding tokens as the start of the real ones.

    Attributes:
        seg: (B, S) segment numbers; 0 is padding.
        groups: the rows, by length.
        order: (rows,) the batch row of each row of the groups, in their order; None where they are in the batch's.
        index: (N,) flat position `row * S + column` of each token; None where every position is computed, in order.
        starts: (B, S) the column where each position's document begins; None where a row is one document.
        padded: for each group, whether some of its rows have padding; None where this is not known.
        first: the column of the first position; above 0 where earlier ones are in a cache (`uer.layers.view.Cache`).
    """

    seg: Tensor
    groups: list[Group]
    order: Tensor | None = None
    index: Tensor | None = None
    starts: Tensor | None = None
    first: int = 0
    padded: tuple[bool, ...] | None = None

    def gather(self, values: Tensor) -> Tensor:
        """(B, S, ...) -> (N, ...): the computed positions' entries."""
        flat = values.flatten(0, 1)
        return flat if self.index is None else flat[self.index]

    def scatter(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (B, S, H), with zeros at positions that were not computed."""
        batch, length = self.seg.shape
        if self.index is None:
            return hidden.view(batch, length, -1)
        flat = hidden.new_zeros(batch * length, hidden.shape[-1])
        return flat.index_copy(0, self.index, hidden).view(batch, length, -1)

    def columns(self) -> Tensor:
        """(N,) each token's column in its row."""
        batch, length = self.seg.shape
        columns = torch.arange(length, device=self.seg.device)
        columns = columns.repeat(batch) if self.index is None else self.index % length
        return columns + self.first if self.first else columns

    def positions(self) -> Tensor:
        """(N,) each token's position in its row, or in its document where a row has several.

            starts [[0, 0, 2, 2, 2]]  ->  [0, 1, 0, 1, 2]
        """
        columns = self.columns()
        return columns if self.starts is None else columns - self.gather(self.starts)

    def queries(self, positions: Tensor, valid: Tensor) -> Queries:
        """Where the wanted tokens lie.

        Args:
            positions: (B, P) columns of the row.
            valid: (B, P) which of them are wanted. The others are answered too where that keeps the number of a
                group's rows the same: on a GPU all of them, so that shapes are static.

        Example, of two rows of length 5 without padding (tokens 0 to 4 and 5 to 9):

            positions [[3, 0], [0, 1]], valid [[1, 0], [1, 1]]
            index     [3, 0, 5, 6]      row 0 answers its second request as well, because row 1 has two
            requests  [0, 1, 2, 3]
            groups    [Group(start=0, rows=2, length=2)]
        """
        batch, wanted = positions.shape
        rows = torch.arange(batch, device=positions.device)[:, None]
        if self.order is None and static_shapes(positions):
            index = rows * self.seg.shape[1] + positions
            requests = torch.arange(batch * wanted, device=positions.device)
            return Queries(index.flatten(), requests, [Group(0, batch, wanted)], (batch, wanted))
        first = torch.argsort((~valid).byte(), dim=1, stable=True)  # (B, P): wanted ones to the front
        positions = torch.where(valid, positions, 0).gather(1, first)
        requests = rows * wanted + first
        if self.order is not None:
            positions, requests, valid = positions[self.order], requests[self.order], valid[self.order]
        counts = valid.sum(1).tolist()
        parts, groups, row, start = [], [], 0, 0
        for group in self.groups:
            count = max(counts[row:row + group.rows])
            here = slice(row, row + group.rows)
            # (rows, 1) the flat matrix' row of each row's first token
            token = torch.arange(group.rows, device=positions.device)[:, None] * group.length + group.start
            parts.append(((token + positions[here, :count]).flatten(), requests[here, :count].flatten()))
            groups.append(Group(start, group.rows, count))
            row, start = row + group.rows, start + group.rows * count
        return Queries(torch.cat([index for index, _ in parts]), torch.cat([request for _, request in parts]), groups,
                       (batch, wanted))


def static_shapes(tensor: Tensor) -> bool:
    """Whether shapes must not depend on values: reading a number back from a GPU stalls it, and breaks a graph."""
    return tensor.device.type != "cpu" or torch.compiler.is_compiling()


def document_starts(src: Tensor, first_token: int) -> Tensor:
    """src (B, S) -> (B, S) the column of the last `first_token` up to each position; 0 before the first one.

        first_token 9:  [[5, 6, 9, 5, 9, 7]]  ->  [[0, 0, 2, 2, 4, 4]]
    """
    columns = torch.arange(src.shape[1], device=src.device)
    return torch.where(src == first_token, columns, 0).cummax(dim=1).values


def padded_layout(seg: Tensor, starts: Tensor | None = None, first: int = 0) -> Layout:
    """Every position of `seg` (B, S) is computed. Shapes are static and nothing is read back from the device.

    `starts` (B, S) and `first` are the layout's attributes.
    """
    batch, length = seg.shape
    return Layout(seg, [Group(0, batch, length)], starts=starts, first=first)


def unpadded_layout(seg: Tensor, starts: Tensor | None = None, merged_padding: int = MERGED_PADDING) -> Layout:
    """Hardly more than the positions with seg (B, S) > 0 is computed: rows are sorted by length, and neighbours of
    (nearly) equal length form a group, which is as long as its longest row (`merged_lengths`).

    Padding must lie at the end of its row. Reads the lengths back from the device.

    Args:
        seg: (B, S) segment numbers; 0 is padding.
        starts: (B, S) the layout's attribute.
        merged_padding: how many positions of padding a group may have; with 0, groups are of equal lengths.
    """
    sorted_lengths, order = (seg > 0).sum(1).sort(descending=True, stable=True)
    lengths = sorted_lengths.tolist()
    computed = merged_lengths(lengths, merged_padding)
    if not computed:
        return padded_layout(seg, starts)  # nothing but padding: there must be something to compute
    groups, padded, row, start = [], [], 0, 0
    for length, rows in Counter(computed).items():
        groups.append(Group(start, rows, length))
        padded.append(lengths[row + rows - 1] < length)
        row, start = row + rows, start + rows * length
    order = order[:row]  # rows of nothing but padding come last and are left out
    columns = torch.arange(seg.shape[1], device=seg.device)
    row, column = (columns < torch.tensor(computed, device=seg.device)[:, None]).nonzero(as_tuple=True)  # (N,) each
    return Layout(seg, groups, order, order[row] * seg.shape[1] + column, starts, padded=tuple(padded))


def merged_lengths(lengths: Sequence[int], merged_padding: int = MERGED_PADDING) -> list[int]:
    """How many positions of each row are computed: as many as in the longest row of its group.

    Args:
        lengths: of the rows, in descending order; rows of length 0 are left out.
        merged_padding: a group ends where it would have more positions of padding.

        [13, 13, 12, 9, 5, 5, 1, 0]  ->  [13, 13, 13, 13, 5, 5, 5]      (padding: 1 + 4 and 4; the 5 would add 8)
    """
    computed: list[int] = []
    padding = 0
    for length in filter(None, lengths):
        padding += computed[-1] - length if computed else 0
        if not computed or padding > merged_padding:
            computed.append(length)
            padding = 0
        else:
            computed.append(computed[-1])
    return computed
