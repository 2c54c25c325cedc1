"""How scaled-dot-product attention is called for the tokens of one forward, on every layout.

A stack of layers makes one `View` for each forward; its attention layers project their tokens and hand them over:

    layout      groups of equal length, no padding                     padding kept
                q, k, v -> (rows, heads, length, head_size) a group     one group: (B, heads, S, head_size)

    everything  no mask at all                                          the keys' padding is masked, (B, 1, 1, S)
    causal      is_causal, no mask                                      is_causal, no mask: padding comes last
    otherwise   a mask of (rows or 1, 1, queries, keys), which is added to the scores (`uer.layers.masks`)

Packed rows go to FlashAttention's kernel for sequences of different lengths where it serves (`variable_length`).
Otherwise, and in cross-attention and attention to a cache, whose sides have different groups, the tokens are put back
into (B, S, ...) rows first. Attention in a window goes block by block where rows are long (`uer.layers.blocks`).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from uer.layers.blocks import in_blocks, with_neighbours
from uer.layers.cpu import eager_cpu, usable
from uer.layers.cpu.attention import cpu_attention
from uer.layers.dropout import dropout
from uer.layers.layout import Group, Layout, Queries
from uer.layers.masks import Masks, Rule, Sides
from uer.layers.rotary import Rotary

LARGEST_FLASH_HEAD = 256

LEAST_BLOCKS = 8
"""How many times as long as one side of a window a row must be, so that its local attention is computed in blocks: from
there on that is faster (with a window of 128 on a CPU, measured forward and backward: 0.9 times as fast with rows of
384 tokens, 1.1 times with 512, 2.2 times with 1,024, 10 times with 4,096)."""

# For each group, the attention scores (rows, heads, queries, keys) of the layer before; None in the first layer.
Scores = list[Tensor] | None


class Heads(NamedTuple):
    """How projected vectors divide into attention heads.

    The projections are heads * size wide for queries, kv_heads * size for keys and for values; each key and value head
    serves heads / kv_heads query heads. `scale` multiplies the scores, a position bias included.
    """

    heads: int
    kv_heads: int
    size: int
    scale: float


@dataclass
class Cache:
    """Keys and values of the tokens before, for generation: each forward appends those of its own tokens.

    Attributes:
        seg: (B, T) segment numbers of all tokens so far; None before the first forward.
        starts: (B, T) as in `Layout`, or None.
        packed: for each attention layer, in the order they run, keys and values (B, T, 2 * kv_heads * head_size); for
            cross-attention those of the source, (B, S, ...), which are computed once.
    """

    seg: Tensor | None = None
    starts: Tensor | None = None
    packed: list[Tensor] = field(default_factory=list)

    @property
    def length(self) -> int:
        """T: the column of the row where the next token stands."""
        return 0 if self.seg is None else self.seg.shape[1]

    def extend(self, layout: Layout) -> Layout:
        """The layout of all keys, once the tokens of `layout` (B, n) are appended."""
        assert layout.index is None and layout.first == self.length, "new tokens need padded_layout(seg, starts, first)"
        before = self.seg is not None
        self.seg = torch.cat([self.seg, layout.seg], 1) if before else layout.seg
        if layout.starts is not None:
            self.starts = torch.cat([self.starts, layout.starts], 1) if before else layout.starts
        return Layout(self.seg, [Group(0, *self.seg.shape)], starts=self.starts)

    def select_rows(self, rows: Tensor) -> None:
        """Keep rows (R,) of the B, in this order, once or more often each: what a beam search goes on with."""
        self.seg = None if self.seg is None else self.seg[rows]
        self.starts = None if self.starts is None else self.starts[rows]
        self.packed = [packed[rows] for packed in self.packed]


class View:
    """What one forward's queries may attend to. Its arguments are read-only attributes.

    Args:
        rule: for cross-attention `Rule()`.
        layout: the queries'.
        memory: the keys', where they belong to another sequence (cross-attention); None where both are one.
        bias: (1, heads, S queries, S keys) position bias for the longest row, or None.
        wanted: the queries whose result is wanted; all tokens of `layout` when None.
        cache: for generation; the keys are then those of all forwards with this cache. Making the view appends the
            tokens of `layout` to it, so that one forward makes one view.
    """

    def __init__(self, rule: Rule, layout: Layout, *, memory: Layout | None = None, bias: Tensor | None = None,
                 wanted: Queries | None = None, cache: Cache | None = None) -> None:
        assert memory is None or rule == Rule(), "cross-attention has no rule"
        assert not rule.prefix or rule.causal
        assert wanted is None or cache is None, "a cache needs the keys of all tokens, so all are computed"
        self.rule, self.layout, self.memory, self.bias, self.wanted, self.cache = (
            rule, layout, memory, bias, wanted, cache)
        self.keys = memory or layout
        if cache is not None and memory is None:
            self.keys = cache.extend(layout)
        self._layers = itertools.count()  # which layer's entry of the cache is next
        self._turns: dict[tuple[float, int], tuple[Tensor, Tensor]] = {}
        self._sides = Sides(layout, self.keys, memory is not None, wanted)
        self._masks = Masks(rule, self._sides)

    def narrowed(self, wanted: Queries) -> "View":
        """The same for some of the queries: what a last layer needs, whatever the rule."""
        assert self.cache is None, "a cache needs the keys of all tokens, so all are computed"
        view = View(self.rule, self.layout, memory=self.memory, bias=self.bias, wanted=wanted)
        view._turns = self._turns
        return view

    def with_rule(self, rule: Rule) -> "View":
        """The same under another rule, for some of the layers. Both belong to one forward: one cache, one count of its
        layers."""
        view = View(rule, self.layout, memory=self.memory, bias=self.bias, wanted=self.wanted)
        view.cache, view.keys, view._sides, view._masks = self.cache, self.keys, self._sides, Masks(rule, self._sides)
        view._layers, view._turns = self._layers, self._turns
        return view

    def select(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (Nq, H): the rows of the tokens that are queries."""
        return self._sides.select(hidden)

    def turns(self, rotary: Rotary, head_size: int) -> tuple[Tensor, Tensor]:
        """`Rotary.turns` for the positions of the queries (Nq, ...) and of the keys that are projected in this forward
        (Nk, ...); computed once for all layers of a forward that have the same base."""
        key = rotary.base, head_size
        if key not in self._turns:
            queries = rotary.turns(self.layout.positions(), head_size)
            keys = queries if self.memory is None else rotary.turns(self.memory.positions(), head_size)
            self._turns[key] = queries, keys
        queries, keys = self._turns[key]
        return self.select(queries), keys

    def remember(self, project: Callable[[], Tensor]) -> Tensor:
        """Keys and values of all keys: with a cache, the stored ones and those of the new tokens.

        Args:
            project: computes (Nk, 2 * kv_heads * head_size) keys and values; not called where a cache has all of them.

        Returns:
            The same, of all keys; rows of the cache are laid end to end, (B * T, ...).
        """
        if self.cache is None:
            return project()
        number, stored = next(self._layers), self.cache.packed
        if number == len(stored):
            stored.append((self.memory or self.layout).scatter(project()))
        elif self.memory is None:
            stored[number] = torch.cat([stored[number], self.layout.scatter(project())], 1)
        return stored[number].flatten(0, 1)

    def attend(self, query: Tensor | None, packed: Tensor, heads: Heads, drop: float = 0.0, *, residual: bool = False,
               scores: Scores = None) -> tuple[Tensor, Scores]:
        """softmax(scale * (Q K^T + bias) + mask) V within each row.

        Args:
            query: (Nq, heads * size), or None where all tokens are queries and `packed` holds theirs before the keys.
            packed: (Nk, 2 * kv_heads * size) keys and values side by side, as `remember` returns them.
            heads: the sizes.
            drop: probability of dropping an attention weight.
            residual: whether `scores` are added to this layer's (He et al., 2020, RealFormer).
            scores: with `residual`, the layer before's; None in the first layer.

        Returns:
            (Nq, heads * size), and with `residual` this layer's scores, else None.
        """
        if torch.is_autocast_enabled("cpu") and eager_cpu(packed):
            return self._attend_wide(query, packed, heads, drop, residual, scores)
        if self._variable_length(packed, heads, residual):
            return self._attend_sequences(query, packed, heads, drop), None
        if self._in_blocks(residual):
            return self._attend_blocks(*_query_apart(query, packed, heads), heads, drop), None
        if self._sides.rectangular:
            query, packed = self._to_rows(*_query_apart(query, packed, heads))
        if residual:
            return self._attend_with_scores(query, packed, heads, drop, scores)
        return self._from_rows(self._attend_groups(query, packed, heads, drop)), None

    def _attend_wide(self, query: Tensor | None, packed: Tensor, heads: Heads, drop: float, residual: bool,
                     scores: Scores) -> tuple[Tensor, Scores]:
        """As `attend`, on a CPU under autocast: in float32 (`uer.layers.cpu.attention` says why)."""
        wide = torch.promote_types(packed.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            return self.attend(None if query is None else query.to(wide), packed.to(wide), heads, drop,
                               residual=residual, scores=scores)

    def _attend_groups(self, query: Tensor | None, packed: Tensor, heads: Heads, drop: float) -> Tensor:
        """As `attend`, of the groups' rows."""
        queries, keys = self._sides.query_groups, self._sides.key_groups
        if self.bias is None and heads.kv_heads == heads.heads and usable(packed):
            masks = {number: mask for number in range(len(keys))
                     if (mask := self._masks.mask(number, packed.dtype)) is not None}
            return cpu_attention(query, packed, keys, queries, masks, heads.heads, heads.scale, drop)
        parts = []
        for number, groups in enumerate(zip(queries, keys)):
            causal = self.bias is None and self._masks.is_causal(number)
            added = None if causal else self._added(number, packed.dtype, heads.scale)
            parts.append(_fused(*_by_head(query, packed, *groups, heads), added, heads, drop, causal))
        return _joined(parts)

    def _attend_with_scores(self, query: Tensor | None, packed: Tensor, heads: Heads, drop: float,
                            before: Scores) -> tuple[Tensor, list[Tensor]]:
        """As `attend` with `residual`; `before` are the scores of the layer before."""
        parts, scores = [], []
        for number, groups in enumerate(zip(self._sides.query_groups, self._sides.key_groups)):
            added = self._added(number, packed.dtype, heads.scale)
            if before:
                added = _sum(added, self._sides.of_wanted(before[number], number))
            part, score = _with_scores(*_by_head(query, packed, *groups, heads), added, heads, drop)
            parts.append(part)
            scores.append(score)
        return self._from_rows(_joined(parts)), scores

    def _added(self, number: int, dtype: torch.dtype, scale: float) -> Tensor | None:
        """What is added to a group's scores: mask and scaled position bias, (rows or 1, heads or 1, queries, keys)."""
        bias, length = None, self._sides.key_groups[number].length
        if self.bias is not None:
            queries = length if self.wanted is None and not self._sides.rectangular else self.bias.shape[2]
            bias = self._sides.of_wanted(self.bias[:, :, :queries, :length], number) * scale
        added = _sum(self._masks.mask(number, dtype), bias)
        return None if added is None else added.to(dtype)

    def _in_blocks(self, residual: bool) -> bool:
        """Whether a window is so much narrower than the rows that blocks of it are computed (`uer.layers.blocks`)."""
        rule = self.rule
        simple = rule.window > 1 and not rule.prefix and self.bias is None and not residual
        return (simple and self.wanted is None and not self._sides.rectangular
                and max(group.length for group in self._sides.key_groups) >= LEAST_BLOCKS * (rule.window // 2))

    def _attend_blocks(self, query: Tensor, packed: Tensor, heads: Heads, drop: float) -> Tensor:
        """As `attend`, with the blocks of each row as rows of their own."""
        sizes, block = [group.rows * group.length for group in self._sides.key_groups], self.rule.window // 2
        parts = []
        for number, (ours, others) in enumerate(zip(query.split(sizes), packed.split(sizes))):
            _, rows, length = self._sides.key_groups[number]
            ours = in_blocks(ours.unflatten(0, (rows, length)), block)  # (rows, blocks, block, heads * size)
            others = with_neighbours(in_blocks(others.unflatten(0, (rows, length)), block), self.rule.causal)
            count = rows * ours.shape[1]
            groups = Group(0, count, block), Group(0, count, others.shape[2])
            output = _attend_masked(ours.flatten(0, 2), others.flatten(0, 2), *groups,
                                    self._masks.of_blocks(number, packed.dtype), heads, drop)
            parts.append(output.view(rows, -1, output.shape[1])[:, :length].flatten(0, 1))
        return torch.cat(parts)

    def _variable_length(self, packed: Tensor, heads: Heads, residual: bool) -> bool:
        """Whether packed rows go to the kernel for sequences of different lengths."""
        if not self.layout.packed or self.memory is not None or self.bias is not None or residual:
            return False
        rule = self.rule
        # With fewer queries than keys the kernel aligns causal masks and windows at the end of a sequence.
        simple = self.wanted is None or not (rule.causal or rule.window)
        return simple and not rule.prefix and variable_length(packed, heads.size)

    def _attend_sequences(self, query: Tensor | None, packed: Tensor, heads: Heads, drop: float) -> Tensor:
        """As `attend`, each sequence of `layout.cu_seqlens` (rows, or documents of a row) by itself."""
        parts = (part.view(len(part), -1, heads.size) for part in _apart(query, packed, heads))
        keys = self.layout.cu_seqlens
        queries = keys if self.wanted is None else self.wanted.cu_seqlens
        return flash_attention(*parts, queries, keys, self.layout.longest, self.rule, heads.scale, drop).flatten(1)

    def _to_rows(self, query: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Flat queries and keys -> the rows of (B, queries, ...) and of (B, keys, ...), laid end to end."""
        query = self.layout.scatter(query) if self.wanted is None else self.wanted.scatter(query)
        keys = packed if self.cache is not None else self.keys.scatter(packed).flatten(0, 1)
        return query.flatten(0, 1), keys

    def _from_rows(self, output: Tensor) -> Tensor:
        """Undoes `_to_rows` for the result."""
        if not self._sides.rectangular:
            return output
        if self.wanted is not None:
            return self.wanted.select(output)
        return self.layout.gather(output.view(*self.layout.seg.shape, -1))


def variable_length(tensor: Tensor, head_size: int) -> bool:
    """Whether FlashAttention's kernel for sequences of different lengths (Dao, 2023, arXiv:2307.08691) takes this
    tensor: in half precision, on a GPU since Ampere."""
    return (tensor.device.type == "cuda" and tensor.dtype in (torch.bfloat16, torch.float16) and head_size % 8 == 0
            and head_size <= LARGEST_FLASH_HEAD and torch.cuda.get_device_capability(tensor.device) >= (8, 0))


def flash_attention(query: Tensor, key: Tensor, value: Tensor, queries: Tensor, keys: Tensor, longest: int, rule: Rule,
                    scale: float, drop: float) -> Tensor:
    """Attention inside of each sequence of tokens that lie end to end.

    torch's public function for it (`torch.nn.attention.varlen.varlen_attn`) has no dropout.

    Args:
        query: (Nq, heads, size).
        key, value: (Nk, kv_heads, size).
        queries, keys: (sequences + 1,) int32, where each sequence begins among the queries and among the keys, and the
            end.
        longest: what no sequence is longer than.

    Returns:
        (Nq, heads, size)
    """
    side = rule.window // 2 if rule.window else None
    return torch.ops.aten._flash_attention_forward(
        query, key, value, queries, keys, longest, longest, drop, rule.causal, False, scale=scale,
        window_size_left=side, window_size_right=0 if side is not None and rule.causal else side)[0]


def _attend_masked(query: Tensor, packed: Tensor, queries: Group, keys: Group, mask: Tensor, heads: Heads,
                   drop: float) -> Tensor:
    """Attention of one group: query (rows * queries, heads * size), packed (rows * keys, 2 * kv_heads * size) and the
    mask (rows, 1, queries, keys) -> (rows * queries, heads * size)"""
    if heads.kv_heads == heads.heads and usable(packed):
        return cpu_attention(query, packed, [keys], [queries], {0: mask}, heads.heads, heads.scale, drop)
    return _joined([_fused(*_by_head(query, packed, queries, keys, heads), mask, heads, drop)])


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: Heads, drop: float,
           causal: bool = False) -> Tensor:
    """torch's attention: query (rows, heads, queries, size), key and value (rows, kv_heads, keys, size) -> as query."""
    return F.scaled_dot_product_attention(query, key, value, mask, drop, is_causal=causal, scale=heads.scale,
                                          enable_gqa=heads.kv_heads != heads.heads)


def _with_scores(query: Tensor, key: Tensor, value: Tensor, added: Tensor | None, heads: Heads,
                 drop: float) -> tuple[Tensor, Tensor]:
    """Attention by its formula, as `_fused`, and its scores (rows, heads, queries, keys)."""
    if heads.kv_heads != heads.heads:
        key, value = (part.repeat_interleave(heads.heads // heads.kv_heads, dim=1) for part in (key, value))
    scores = _sum((query * heads.scale) @ key.transpose(-1, -2), added)
    return dropout(scores.softmax(-1), drop) @ value, scores


def _query_apart(query: Tensor | None, packed: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
    """Queries, and keys and values side by side; without `query` all three are in `packed`."""
    return packed.tensor_split([heads.heads * heads.size], dim=-1) if query is None else (query, packed)


def _apart(query: Tensor | None, packed: Tensor, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (Nq, heads * size), keys and values (Nk, kv_heads * size)."""
    query, packed = _query_apart(query, packed, heads)
    return query, *packed.split(heads.kv_heads * heads.size, dim=-1)


def _by_head(query: Tensor | None, packed: Tensor, query_group: Group, key_group: Group,
             heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """A group's query (rows, heads, queries, size), key and value (rows, kv_heads, keys, size)."""
    parts = zip(_apart(query, packed, heads), (query_group, key_group, key_group))
    # The number of heads is given: it cannot be inferred where a group has no queries.
    return tuple(part[start:start + rows * length].view(rows, length, part.shape[1] // heads.size, heads.size)
                 .transpose(1, 2) for part, (start, rows, length) in parts)


def _joined(parts: list[Tensor]) -> Tensor:
    """Groups (rows, heads, queries, size) -> (Nq, heads * size)"""
    parts = [part.transpose(1, 2).flatten(2).flatten(0, 1) for part in parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _sum(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    """The sum of those that are not None."""
    if left is None or right is None:
        return left if right is None else right
    return left + right
