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

Where shapes must not depend on values, as on a GPU, rows without padding are packed into a fixed number of tokens T.
The tokens after the last row are fillers, on which nothing depends, in sequences of their own:

    seg          packed into T = 13                       cu_seqlens      where each sequence begins, and the end
    1 1 1 1      0 1 2 3 | 4 5 | 6 7 | 8 9 10 11 | 12     0 4 6 8 12 13 13 13     rows 0 to 2, then the fillers
    1 1 0 0
    1 1 0 0

No sequence is longer than a row may be: a kernel that is told this length leaves the rest of a longer one as it found
it in memory, and what it found there would reach the gradients (0 * NaN is NaN).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

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
        requests: (K,) which entry of the flattened (B, P) request each one answers; none is answered twice. In a packed
            layout some answer none: B * P.
        groups: for each group of the layout, its queries as rows of the (K, H) matrix; [] in a packed layout.
        shape: (B, P).
        cu_seqlens: of a packed layout, where the queries of each sequence begin, and K; as `Layout.cu_seqlens`.
    """

    index: Tensor
    requests: Tensor
    groups: list[Group]
    shape: tuple[int, int]
    cu_seqlens: Tensor | None = None

    def scatter(self, hidden: Tensor) -> Tensor:
        """(K, H) -> (B, P, H): each request's answer, zeros where there is none."""
        return _scattered(hidden, self.requests, self.shape)

    def select(self, values: Tensor, fill: int = 0) -> Tensor:
        """(B * P, ...) -> (K, ...): the entry that each query answers, `fill` where it answers none."""
        if self.cu_seqlens is None:
            return values.index_select(0, self.requests)
        return _selected(values, self.requests, fill)


@dataclass(frozen=True, eq=False)
class Layout:
    """How the (B, S) positions of a batch map to the N tokens that are computed.

    Padding lies at the end of its row. Where `starts` is given it may lie at the beginning too (as generation needs
    it), with 0 as its start and the number of padding tokens as the start of the real ones.

    Attributes:
        seg: (B, S) segment numbers; 0 is padding.
        groups: the rows, by length; [] where they are packed.
        order: (rows,) the batch row of each row of the groups, in their order; None where they are in the batch's.
        index: (N,) flat position `row * S + column` of each token; None where every position is computed, in order.
        starts: (B, S) the column where each position's document begins; None where a row is one document.
        padded: for each group, whether some of its rows have padding; None where this is not known.
        first: the column of the first position; above 0 where earlier ones are in a cache (`uer.layers.view.Cache`).
        cu_seqlens: (sequences + F + 1,) int32 where the rows are packed: the first token of each row (of each
            document, with `starts`) and of up to F sequences of fillers, then T as often as needed. The index of a
            filler is B * S.
        predictions: K, how many queries a packed layout answers.
    """

    seg: Tensor
    groups: list[Group]
    order: Tensor | None = None
    index: Tensor | None = None
    starts: Tensor | None = None
    first: int = 0
    cu_seqlens: Tensor | None = None
    predictions: int = 0
    padded: tuple[bool, ...] | None = None

    @property
    def longest(self) -> int:
        """The length of the longest row there may be, S."""
        return self.seg.shape[1]

    @property
    def packed(self) -> bool:
        """Whether the rows are packed into a fixed number of tokens."""
        return self.cu_seqlens is not None

    def gather(self, values: Tensor, fill: int = 0) -> Tensor:
        """(B, S, ...) -> (N, ...): the computed positions' entries; `fill` for fillers."""
        flat = values.flatten(0, 1)
        if self.index is None:
            return flat
        return _selected(flat, self.index, fill) if self.packed else flat[self.index]

    def scatter(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (B, S, H), with zeros at positions that were not computed."""
        batch, length = self.seg.shape
        return hidden.view(batch, length, -1) if self.index is None else _scattered(hidden, self.index, (batch, length))

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
        if self.packed:
            return self._packed_queries(positions, valid)
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

    def _packed_queries(self, positions: Tensor, valid: Tensor) -> Queries:
        """K queries in the order of the tokens; those without a request are a filler's.

        Example, of rows of 4, 2 and 2 tokens in T = 10 and K = 5:

            positions [[3, 1], [1, 0], [0, 1]], valid [[1, 1], [1, 0], [1, 0]]
            token       3 1      5 .     6 .         the request's row of the (T, H) matrix
            index       [1, 3, 5, 6, 8]              sorted; 8 is the first filler
            requests    [1, 0, 2, 4, 6]              6 is B * P: no request
            cu_seqlens  [0, 2, 3, 4, 5, 5, 5]        at most 4 fillers in a sequence, as the rows
        """
        batch, wanted = positions.shape
        lengths = (self.seg > 0).sum(1)
        ends = lengths.cumsum(0)
        token = torch.where(valid, (ends - lengths)[:, None] + positions, ends[-1]).flatten()  # (B * P,)
        # The wanted ones come first where sorted: every token of a row is before the first filler.
        more = max(0, self.predictions - len(token))
        index, requests = torch.cat([token, ends[-1].expand(more)]).sort(stable=True)
        index, requests = index[:self.predictions], requests[:self.predictions]
        requests = torch.where(index < ends[-1], requests, batch * wanted)
        # How many queries lie before each sequence's first token. All fillers are queries of the first filler token,
        # but in sequences as long as the rows may be.
        begins = torch.searchsorted(index, self.cu_seqlens.long())
        sequence = torch.arange(len(begins), device=begins.device) - (self.cu_seqlens < ends[-1]).sum()
        fillers = (index < ends[-1]).sum() + sequence * self.longest
        begins = torch.where(sequence < 0, begins, fillers.clamp(max=self.predictions))
        return Queries(index, requests, [], (batch, wanted), begins.int())


def _selected(values: Tensor, index: Tensor, fill: int) -> Tensor:
    """(M, ...) -> (N, ...): entries at `index` (N,), and `fill` where that is M."""
    there = index < len(values)
    found = values.index_select(0, torch.where(there, index, 0))
    return torch.where(there.view(-1, *[1] * (values.dim() - 1)), found, found.new_full((), fill))


def _scattered(hidden: Tensor, index: Tensor, shape: tuple[int, int]) -> Tensor:
    """(N, H) -> (*shape, H): each row at its `index` (N,) of the flattened result, zeros elsewhere. Rows whose index is
    the number of the result's rows are left out."""
    rows = shape[0] * shape[1]
    flat = hidden.new_zeros(rows + 1, hidden.shape[-1])
    return flat.index_copy(0, index, hidden)[:rows].view(*shape, -1)


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


def packed_layout(seg: Tensor, tokens: int, predictions: int, sequences: int, starts: Tensor | None = None) -> Layout:
    """Only positions with seg (B, S) > 0 are computed, and fillers up to a fixed number. Shapes are static and nothing
    is read back from the device.

    Args:
        tokens: T, more than there are real positions.
        predictions: K, at least as many as there will be wanted queries.
        sequences: at least as many as there are rows, or documents where `starts` (B, S) is given.
    """
    batch, length = seg.shape
    lengths = (seg > 0).sum(1)
    ends = lengths.cumsum(0)  # (B,) the token after each row's last
    slots = torch.arange(tokens, device=seg.device)
    row = torch.searchsorted(ends, slots, right=True)  # (T,), B for fillers
    # row * S + column, where column = slot - first token of the row
    shift = torch.arange(batch, device=seg.device) * length - (ends - lengths)
    index = torch.where(slots < ends[-1], slots + shift[row.clamp(max=batch - 1)], batch * length)
    cu_seqlens = _sequences(slots, ends, index, length, starts, sequences + -(-max(tokens, predictions) // length) + 1)
    return Layout(seg, [], index=index, starts=starts, cu_seqlens=cu_seqlens, predictions=predictions)


def _sequences(slots: Tensor, ends: Tensor, index: Tensor, length: int, starts: Tensor | None, count: int) -> Tensor:
    """`Layout.cu_seqlens`, of `count` entries.

    Args:
        slots: (T,) 0 to T - 1.
        ends: (B,) the token after each row's last.
        index: (T,) as in `Layout`.
        length: S, also the longest sequence of fillers.
        starts: as in `Layout`.
    """
    sequence = torch.arange(count, device=slots.device)
    if starts is None:
        begins, real = F.pad(ends, (1, count)), len(ends)
    else:
        first = (slots < ends[-1]) & (index % length == _selected(starts.flatten(), index, 0))
        number = torch.where(first, first.cumsum(0) - 1, count)  # one entry more takes the tokens that are not first
        begins, real = slots.new_zeros(count + 1).scatter(0, number, slots), first.sum()
    fillers = (ends[-1] + (sequence - real) * length).clamp(max=len(slots))
    return torch.where(sequence < real, begins[:count], fillers).int()


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
