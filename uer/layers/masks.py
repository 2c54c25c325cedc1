"""Which key a query may attend to, as masks that are added to the scores: 0, or HIDDEN where it may not.

The rules, for the segments 1 1 2 2 of one row (x: may attend; a line is a query):

    everything    causal     causal with prefix    window=2    two documents (starts 0 0 2 2)
    x x x x       x . . .    x x . .               x x . .     x x . .
    x x x x       x x . .    x x . .               x x x .     x x . .
    x x x x       x x x .    x x x .               . x x x     . . x x
    x x x x       x x x x    x x x x               . . x x     . . x x
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from uer.layers.blocks import block_window, in_blocks, with_neighbours
from uer.layers.layout import Group, Layout, Queries

# Added to the score of a key that a query may not attend to. As BERT's: its weight underflows to 0 in every precision,
# and a row of nothing but padding still has finite numbers.
HIDDEN = -10000.0


@dataclass(frozen=True)
class Rule:
    """Which keys of its row a query may attend to; padding is never among them.

    Attributes:
        causal: those up to its own position.
        prefix: with `causal`, those of segment 1 as well (Dong et al., 2019, UniLM).
        window: those at most window / 2 positions away (Beltagy et al., 2020, Longformer); 0 sets no limit.
    """

    causal: bool = False
    prefix: bool = False
    window: int = 0


MASKS = {
    "fully_visible": Rule(),
    "causal": Rule(causal=True),
    "causal_with_prefix": Rule(causal=True, prefix=True),
}


class Sides:
    """The queries and the keys of one forward, group by group. Its arguments are read-only attributes.

    In self-attention without packed rows or a cache, the groups of both sides are the same rows. For the groups (start,
    rows, length) of three rows, and with one query wanted of each row:

        seg            key_groups     query_groups
        1 1 1 1        (0, 1, 4)      (0, 1, 1)
        1 1 | 1 1      (4, 2, 2)      (1, 2, 1)

    Otherwise (`rectangular`) each side is one group of all B rows, of equal length: there the groups of the two sides
    do not correspond.

    Args:
        layout: the queries'.
        keys: the layout of the keys.
        crossed: whether the keys belong to another sequence (cross-attention).
        wanted: the queries whose result is wanted; all tokens of `layout` when None.

    Attributes:
        rectangular: see above.
        query_groups, key_groups: as many of one as of the other. A group's index is called `number` in the methods.
        documents: whether rows consist of documents that may not attend to one another.
    """

    def __init__(self, layout: Layout, keys: Layout, crossed: bool, wanted: Queries | None) -> None:
        self.layout, self.keys, self.crossed, self.wanted = layout, keys, crossed, wanted
        self.rectangular = crossed or layout.first > 0 or layout.packed
        self.documents = keys.starts is not None and not crossed
        if self.rectangular:
            batch, length = layout.seg.shape if wanted is None else wanted.shape
            self.query_groups, self.key_groups = [Group(0, batch, length)], [Group(0, *keys.seg.shape)]
        else:
            self.query_groups = layout.groups if wanted is None else wanted.groups
            self.key_groups = layout.groups

    def select(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (Nq, H): the rows of the tokens that are queries."""
        return hidden if self.wanted is None else hidden.index_select(0, self.wanted.index)

    def of_wanted(self, matrix: Tensor, number: int) -> Tensor:
        """(rows or 1, heads, length, keys) for all tokens of a group -> (rows, heads, queries, keys), those of the
        wanted queries."""
        if self.wanted is None:
            return matrix
        columns = self.query_columns(number)  # (rows, queries)
        if len(matrix) == 1:
            return matrix[0].transpose(0, 1)[columns].transpose(1, 2)
        index = columns[:, None, :, None].expand(-1, matrix.shape[1], -1, matrix.shape[3])
        return matrix.gather(2, index)

    def query_columns(self, number: int) -> Tensor:
        """The columns of a group's queries in their rows: (rows, queries), or (1, queries) where all tokens are
        queries."""
        length = self.layout.seg.shape[1] if self.rectangular else self.key_groups[number].length
        if self.wanted is None:
            return torch.arange(length, device=self.layout.seg.device)[None] + self.layout.first
        start, rows, count = self.query_groups[number]
        if self.rectangular:
            return self.wanted.scatter(self.select(self.layout.columns())[:, None]).squeeze(-1)
        tokens = self.wanted.index[start:start + rows * count] - self.key_groups[number].start
        return (tokens % length).view(rows, count)

    def of_queries(self, values: Tensor, number: int) -> Tensor:
        """values (B, S) -> (rows, queries): those of a group."""
        if self.rectangular and self.wanted is None:
            return values
        if self.rectangular:
            return self.wanted.scatter(self.select(self.layout.gather(values))[:, None]).squeeze(-1)
        start, rows, count = self.query_groups[number]
        return self.select(self.layout.gather(values))[start:start + rows * count].view(rows, count)

    def key_columns(self, number: int) -> Tensor:
        """(1, keys)"""
        return torch.arange(self.key_groups[number].length, device=self.keys.seg.device)[None]

    def of_keys(self, values: Tensor, number: int) -> Tensor:
        """values (B, S) -> (rows, keys): those of a group."""
        if self.rectangular:
            return values
        start, rows, length = self.key_groups[number]
        return self.keys.gather(values)[start:start + rows * length].view(rows, length)

    def real_keys(self, number: int) -> Tensor | None:
        """(rows, keys) bool: which keys are no padding; None where none is padding."""
        padded = self.rectangular or self.keys.padded is None or self.keys.padded[number]
        return self.of_keys(self.keys.seg, number) > 0 if padded else None


class Masks:
    """The masks of a rule for the groups of one forward; its layers share them, so each is made once.

    Args:
        rule: for cross-attention `Rule()`.
        sides: the queries and keys.
    """

    def __init__(self, rule: Rule, sides: Sides) -> None:
        self.rule, self.sides = rule, sides
        self._made: dict[tuple[str, int, torch.dtype], Tensor] = {}

    def is_causal(self, number: int) -> bool:
        """Whether "no key after the query" is all there is to a group's mask, with as many queries as keys."""
        return (self.rule.causal and not self.rule.prefix and not self._is_limited(number) and not self.sides.documents
                and self.sides.wanted is None and not self.sides.rectangular)

    def mask(self, number: int, dtype: torch.dtype) -> Tensor | None:
        """(rows or 1, 1, queries or 1, keys); None where a group's queries may attend to every key."""
        made = self._made.get(("rows", number, dtype))
        if made is None and (allowed := self._allowed(number)) is not None:
            made = self._made["rows", number, dtype] = _added_to_scores(allowed, dtype)[:, None]
        return made

    def of_blocks(self, number: int, dtype: torch.dtype) -> Tensor:
        """(rows * blocks, 1, block, keys), for a group whose rows are divided into blocks (`uer.layers.blocks`)."""
        made = self._made.get(("blocks", number, dtype))
        if made is None:
            allowed = self._allowed_in_blocks(number)
            made = self._made["blocks", number, dtype] = _added_to_scores(allowed, dtype).flatten(0, 1)[:, None]
        return made

    def _is_limited(self, number: int) -> bool:
        """Whether the window is narrower than a group's rows."""
        return self.rule.window > 0 and self.rule.window // 2 < self.sides.key_groups[number].length - 1

    def _allowed(self, number: int) -> Tensor | None:
        """(rows or 1, queries or 1, keys) bool: which keys may be attended to; None where all may."""
        rule, sides = self.rule, self.sides
        real = None if self.is_causal(number) else sides.real_keys(number)
        allowed = None if real is None else real[:, None, :]
        limited = self._is_limited(number)
        if not (rule.causal or limited or sides.documents):
            return allowed
        # Key position - query position, (rows or 1, queries, keys).
        distance = sides.key_columns(number)[:, None, :] - sides.query_columns(number)[:, :, None]
        if rule.causal:
            allowed = _both(allowed, distance <= 0)
        if rule.prefix:
            allowed = allowed | (sides.of_keys(sides.keys.seg, number) == 1)[:, None, :]
        if limited:
            allowed = _both(allowed, distance.abs() <= rule.window // 2)
        if sides.documents:
            queries = sides.of_queries(sides.layout.starts, number)  # (rows, queries): which document each belongs to
            allowed = _both(allowed, queries[:, :, None] == sides.of_keys(sides.keys.starts, number)[:, None, :])
        return allowed

    def _allowed_in_blocks(self, number: int) -> Tensor:
        """(rows, blocks, block, keys) bool"""
        sides, block, causal = self.sides, self.rule.window // 2, self.rule.causal
        _, rows, length = sides.key_groups[number]
        allowed = block_window(length, block, causal, sides.keys.seg.device).expand(rows, -1, -1, -1)
        if (real := sides.real_keys(number)) is not None:
            allowed = allowed & with_neighbours(in_blocks(real, block), causal)[:, :, None, :]
        if sides.documents:
            documents = in_blocks(sides.of_keys(sides.keys.starts, number), block)  # (rows, blocks, block)
            allowed = allowed & (with_neighbours(documents, causal)[:, :, None, :] == documents[..., None])
        return allowed


def _added_to_scores(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `allowed`, else HIDDEN; of the same shape."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, HIDDEN)


def _both(left: Tensor | None, right: Tensor) -> Tensor:
    return right if left is None else left & right
