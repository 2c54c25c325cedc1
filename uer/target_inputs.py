"""What a target reads: the hidden states at the positions of its labels, and the labels.

A model computes the hidden states of all tokens, or of those at which some target predicts; `inputs_of` divides them
among the targets.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from uer.layers.cross_entropy import IGNORED
from uer.layers.layout import Layout, Queries, static_shapes
from uer.layers.pooling import pool


class Labels(Protocol):
    """The labels of a target."""

    values: Tensor
    """(B, P, ...) at `positions`, or (B, S, ...) at every position."""
    positions: Tensor | None
    """(B, P)"""
    side: str

    def wanted(self) -> Tensor:
        """(B, P) or (B, S) bool: where something is predicted."""


class TargetInput(NamedTuple):
    """The hidden states and labels of one target; K is the number of its predictions."""

    hidden: Tensor
    """(K, H) the last hidden states of the positions that it predicts from."""
    labels: Tensor
    """(K, ...) int64"""


def inputs_of(states: Callable[[Queries | None], Tensor], layout: Layout, asked: Mapping[str, Labels],
              pooled: Mapping[str, str] = MappingProxyType({})) -> dict[str, TargetInput]:
    """The inputs of each target.

    Args:
        states: the hidden states (K, H) of some tokens, or of all (N, H) for None.
        layout: which of the N tokens belong to which row.
        asked: the labels by target.
        pooled: as in `inputs_from_all`.
    """
    if pooled or any(labels.positions is None for labels in asked.values()):  # a target wants every position
        return inputs_from_all(states(None), layout, asked, pooled)
    # (B, P) positions of all targets together, and whether anything is predicted there.
    queries = layout.queries(torch.cat([labels.positions for labels in asked.values()], dim=1),
                             torch.cat([labels.wanted() for labels in asked.values()], dim=1))
    return inputs_from_queries(states(queries), layout, queries, asked)


def inputs_from_all(hidden: Tensor, layout: Layout, asked: Mapping[str, Labels],
                    pooled: Mapping[str, str]) -> dict[str, TargetInput]:
    """The inputs of each target, from the hidden states of all tokens (N, H).

    Args:
        hidden: (N, H) the tokens of `layout`.
        asked: the labels by target, at some positions (B, P, ...) or at every position (B, S, ...).
        pooled: of the targets with a label for each row (B, 1), "mean" or "max" of the row's hidden states.
    """
    inputs = {}
    for name, labels in asked.items():
        if name in pooled:
            rows = pool(layout.scatter(hidden), layout.seg > 0, pooled[name])  # (B, H)
            inputs[name] = _without_ignored(rows, labels.values[:, 0], labels.wanted()[:, 0])
        elif labels.positions is None:
            inputs[name] = _without_ignored(hidden, layout.gather(labels.values, IGNORED),
                                            layout.gather(labels.wanted()))
        else:
            queries = layout.queries(labels.positions, labels.wanted())
            inputs |= inputs_from_queries(hidden.index_select(0, queries.index), layout, queries, {name: labels})
    return inputs


def inputs_from_queries(hidden: Tensor, layout: Layout, queries: Queries,
                        asked: Mapping[str, Labels]) -> dict[str, TargetInput]:
    """The inputs of each target, from the hidden states of the union of all their positions; in the same order whatever
    other targets there are, as a teacher may have fewer than its student.

    The union is a request (B, P), P the sum of the targets' widths, and `queries.requests` (K,) says which of its
    flattened entries each hidden state is for. With mlm at 2 positions a row and sp at 1, B = 3, and nothing to predict
    in mlm's last entry of row 2:

        entries of the union    0 1 2 | 3 4 5 | 6 7 8        per row: mlm mlm sp
        queries.requests        0 1 2   3 4 5   6   8        (K,), K = 8
        row                     0 0 0   1 1 1   2   2        requests // 3
        column                  0 1 2   0 1 2   0   2        requests % 3
        mlm  own labels         0 1     2 3     4            row * 2 + column      index in its flattened (B, 2)
        sp   own labels             0       1       2        row * 1 + column - 2  index in its flattened (B, 1)

    Args:
        hidden: (K, H).
        queries: made of the concatenation of all positions along dimension 1.
        asked: the labels by target, in the order of this concatenation.
    """
    widths = [labels.positions.shape[1] for labels in asked.values()]
    row, column = queries.requests // sum(widths), queries.requests % sum(widths)  # (K,)
    inputs, begin = {}, 0
    for (name, labels), width in zip(asked.items(), widths):
        states, own = hidden, queries  # a single target has all of them
        if len(asked) > 1 and layout.packed:  # it gets all, and no label for those of others, which come last
            entry = row * width + column - begin
            ours = (column >= begin) & (column < begin + width) & (row < len(labels.values))
            order = torch.argsort((~ours).byte(), stable=True)  # (K,)
            requests = torch.where(ours, entry, labels.values.shape[:2].numel())
            states, own = hidden.index_select(0, order), replace(queries, requests=requests[order])
        elif len(asked) > 1:
            mine = _queries_of_columns(layout, column, len(labels.values), begin, width)  # (K of this target,)
            states = hidden.index_select(0, mine)
            own = replace(queries, requests=row[mine] * width + column[mine] - begin)
        inputs[name] = _without_ignored(states, own.select(labels.values.flatten(0, 1), IGNORED),
                                        own.select(labels.wanted().flatten()))
        begin += width
    return inputs


def _queries_of_columns(layout: Layout, column: Tensor, rows: int, begin: int, width: int) -> Tensor:
    """Which of K queries are for the columns `begin` to `begin + width - 1` of the union (rows, P).

    Args:
        column: (K,) int64, the column of each query.
    """
    if layout.order is None and static_shapes(column):  # there is a query for every entry, in order
        return torch.arange(len(column), device=column.device).view(rows, -1)[:, begin:begin + width].flatten()
    return ((column >= begin) & (column < begin + width)).nonzero().squeeze(1)


def _without_ignored(hidden: Tensor, labels: Tensor, wanted: Tensor) -> TargetInput:
    """Remove the states without a label, unless shapes must be static: hidden (K, H), labels (K, ...), wanted (K,)."""
    if static_shapes(hidden):
        return TargetInput(hidden, labels)
    return TargetInput(hidden[wanted], labels[wanted])
