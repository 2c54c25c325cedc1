"""Which query may attend to which key, and how scaled-dot-product attention is called for it.

A stack of layers makes one `View` for each forward; its attention layers project their tokens and hand them over:

    layout      groups of equal length, no padding                     padding kept
                q, k, v -> (rows, heads, length, head_size) a group     one group: (B, heads, S, head_size)

    everything  no mask at all                                          the keys' padding is masked, (B, 1, 1, S)
    causal      is_causal, no mask                                      is_causal, no mask: padding comes last
    otherwise   a mask of (rows or 1, 1, queries, keys), which is added to the scores: 0 or HIDDEN

Packed rows go to FlashAttention's kernel for sequences of unlike lengths where it serves (`variable_length`).
Otherwise, and in cross-attention and attention to a cache, whose sides have unlike groups, the tokens are put back into
(B, S, ...) rows first. Example of the rules, for the segments 1 1 2 2 of one row (x: may attend; a line is a query):

    everything    causal     causal with prefix    window=2    two documents (starts 0 0 2 2)
    x x x x       x . . .    x x . .               x x . .     x x . .
    x x x x       x x . .    x x . .               x x x .     x x . .
    x x x x       x x x .    x x x .               . x x x     . . x x
    x x x x       x x x x    x x x x               . . x x     . . x x
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from uer.layers.blocks import block_window, in_blocks, with_neighbours
from uer.layers.cpu import usable
from uer.layers.cpu.attention import cpu_attention
from uer.layers.dropout import dropout
from uer.layers.layout import Group, Layout, Queries
from uer.layers.rotary import Rotary

# Added to the score of a key that a query may not attend to. As BERT's: its weight underflows to 0 in every precision,
# and a row of nothing but padding still has finite numbers.
HIDDEN = -10000.0

LARGEST_FLASH_HEAD = 256

LEAST_BLOCKS = 8
"""How many times as long as one side of a window a row must be, so that its local attention is computed in blocks: from
there on that is faster (with a window of 128 on a CPU, measured forward and backward: 0.9 times as fast with rows of
384 tokens, 1.1 times with 512, 2.2 times with 1,024, 10 times with 4,096)."""

# For each group, the attention scores (rows, heads, queries, keys) of the layer before; None in the first layer.
Scores = list[Tensor] | None


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


class _Tokens(NamedTuple):
    """The tokens of one side of a group: columns (rows or 1, length), segments and documents (rows, length) or None."""

    columns: Tensor
    seg: Tensor | None
    documents: Tensor | None


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
        self._masks: dict[tuple[int, torch.dtype], Tensor] = {}
        # Whether the rows of both sides are (B, length) matrices, because their groups do not correspond.
        self._rectangular = memory is not None or layout.first > 0 or layout.packed
        if self._rectangular:
            batch, length = layout.seg.shape if wanted is None else wanted.shape
            self._query_groups, self._key_groups = [Group(0, batch, length)], [Group(0, *self.keys.seg.shape)]
        else:
            self._query_groups = layout.groups if wanted is None else wanted.groups
            self._key_groups = layout.groups

    def narrowed(self, wanted: Queries) -> "View":
        """The same for some of the queries: what a last layer needs, whatever the rule."""
        view = View(self.rule, self.layout, memory=self.memory, bias=self.bias, wanted=wanted)
        view._turns = self._turns
        return view

    def with_rule(self, rule: Rule) -> "View":
        """The same under another rule, for some of the layers. Both belong to one forward: one cache, one count of its
        layers."""
        view = View(rule, self.layout, memory=self.memory, bias=self.bias, wanted=self.wanted)
        view.cache, view.keys, view._key_groups = self.cache, self.keys, self._key_groups
        view._layers, view._turns = self._layers, self._turns
        return view

    def select(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (Nq, H): the rows of the tokens that are queries."""
        return hidden if self.wanted is None else hidden.index_select(0, self.wanted.index)

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
            stored.append(self.keys.scatter(project()) if self.memory is not None else self.layout.scatter(project()))
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
        if self._variable_length(packed, heads, residual):
            return self._attend_sequences(query, packed, heads, drop), None
        if self._in_blocks(residual):
            return self._attend_blocks(query, packed, heads, drop), None
        if self._rectangular:
            query, packed = self._to_rows(query, packed, heads)
        if self.bias is None and not residual and heads.kv_heads == heads.heads and usable(packed):
            masks = {number: mask for number in range(len(self._key_groups))
                     if (mask := self._mask(number, packed.dtype)) is not None}
            output = cpu_attention(query, packed, self._key_groups, self._query_groups, masks, heads.heads,
                                   heads.scale, drop)
            return self._from_rows(output), None
        parts, new_scores = [], []
        for number in range(len(self._key_groups)):
            part = _by_head(query, packed, self._query_groups[number], self._key_groups[number], heads)
            if residual:
                before = self._selected(scores[number], number) if scores else None
                attended, score = _with_scores(*part, _add(self._added(number, packed.dtype, heads.scale), before),
                                               heads, drop)
                new_scores.append(score)
            else:
                attended = self._attend_group(number, *part, heads, drop)
            parts.append(attended.transpose(1, 2).reshape(-1, heads.heads * heads.size))
        return self._from_rows(parts[0] if len(parts) == 1 else torch.cat(parts)), new_scores or None

    def _attend_group(self, number: int, query: Tensor, key: Tensor, value: Tensor, heads: Heads,
                      drop: float) -> Tensor:
        """(rows, heads, queries, size), keys and values likewise -> (rows, heads, queries, size)"""
        causal = self.bias is None and self._is_causal(number)
        mask = None if causal else self._added(number, value.dtype, heads.scale)
        return F.scaled_dot_product_attention(query, key, value, mask, drop, is_causal=causal, scale=heads.scale,
                                              enable_gqa=heads.kv_heads != heads.heads)

    def _in_blocks(self, residual: bool) -> bool:
        """Whether a window is so much narrower than the rows that blocks of it are computed (`uer.layers.blocks`)."""
        rule = self.rule
        simple = rule.window > 1 and not rule.prefix and self.bias is None and not residual
        return (simple and self.wanted is None and not self._rectangular
                and max(group.length for group in self._key_groups) >= LEAST_BLOCKS * (rule.window // 2))

    def _attend_blocks(self, query: Tensor | None, packed: Tensor, heads: Heads, drop: float) -> Tensor:
        """As `attend`, with the blocks of each row as rows of their own."""
        if query is None:
            query, packed = packed.tensor_split([heads.heads * heads.size], dim=-1)
        sizes, block = [group.rows * group.length for group in self._key_groups], self.rule.window // 2
        parts = []
        for number, (ours, others) in enumerate(zip(query.split(sizes), packed.split(sizes))):
            _, rows, length = self._key_groups[number]
            ours = in_blocks(ours.unflatten(0, (rows, length)), block)  # (rows, blocks, block, heads * size)
            others = with_neighbours(in_blocks(others.unflatten(0, (rows, length)), block), self.rule.causal)
            count = rows * ours.shape[1]
            groups = Group(0, count, block), Group(0, count, others.shape[2])
            output = _attend_masked(ours.flatten(0, 2), others.flatten(0, 2), *groups,
                                    self._block_mask(number, packed.dtype), heads, drop)
            parts.append(output.view(rows, -1, output.shape[1])[:, :length].flatten(0, 1))
        return torch.cat(parts)

    def _block_mask(self, number: int, dtype: torch.dtype) -> Tensor:
        """(rows * blocks, 1, block, keys) of 0 and HIDDEN, for the blocks of a group."""
        if (number, dtype) in self._masks:
            return self._masks[number, dtype]
        block, causal, key = self.rule.window // 2, self.rule.causal, self._key_tokens(number)
        _, rows, length = self._key_groups[number]
        allowed = block_window(length, block, causal, self.layout.seg.device).expand(rows, -1, -1, -1)
        if key.seg is not None:
            allowed = allowed & with_neighbours(in_blocks(key.seg > 0, block), causal)[:, :, None, :]
        if key.documents is not None:
            documents = in_blocks(key.documents, block)
            allowed = allowed & (with_neighbours(documents, causal)[:, :, None, :] == documents[..., None])
        mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, HIDDEN)
        self._masks[number, dtype] = mask.flatten(0, 1)[:, None]
        return self._masks[number, dtype]

    def _variable_length(self, packed: Tensor, heads: Heads, residual: bool) -> bool:
        """Whether packed rows go to the kernel for sequences of unlike lengths."""
        if not self.layout.packed or self.memory is not None or self.bias is not None or residual:
            return False
        rule = self.rule
        # With fewer queries than keys the kernel aligns causal masks and windows at the end of a sequence.
        simple = self.wanted is None or not (rule.causal or rule.window)
        return simple and not rule.prefix and variable_length(packed, heads.size)

    def _attend_sequences(self, query: Tensor | None, packed: Tensor, heads: Heads, drop: float) -> Tensor:
        """As `attend`, each sequence of `layout.cu_seqlens` (rows, or documents of a row) by itself."""
        widths = [heads.heads * heads.size, heads.kv_heads * heads.size, heads.kv_heads * heads.size]
        if query is None:
            query, key, value = packed.split(widths, dim=-1)
        else:
            key, value = packed.split(widths[1:], dim=-1)
        query, key, value = (part.view(len(part), -1, heads.size) for part in (query, key, value))
        keys = self.layout.cu_seqlens
        queries = keys if self.wanted is None else self.wanted.cu_seqlens
        return flash_attention(query, key, value, queries, keys, self.layout.longest, self.rule, heads.scale,
                               drop).flatten(1)

    def _to_rows(self, query: Tensor | None, packed: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
        """Flat queries and keys -> the rows of (B, queries, ...) and of (B, keys, ...), laid end to end."""
        if query is None:  # all three are side by side
            query, packed = packed.tensor_split([heads.heads * heads.size], dim=-1)
        query = self.layout.scatter(query) if self.wanted is None else self.wanted.scatter(query)
        keys = packed if self.cache is not None else self.keys.scatter(packed).flatten(0, 1)
        return query.flatten(0, 1), keys

    def _from_rows(self, output: Tensor) -> Tensor:
        """Undoes `_to_rows` for the result."""
        if not self._rectangular:
            return output
        if self.wanted is not None:
            return self.wanted.select(output)
        return self.layout.gather(output.view(*self.layout.seg.shape, -1))

    def _is_causal(self, number: int) -> bool:
        """Whether "no key after the query" is all there is to a group's mask, with as many queries as keys."""
        return (self.rule.causal and not self.rule.prefix and not self._limited(number) and not self._has_documents()
                and self.wanted is None and not self._rectangular)

    def _limited(self, number: int) -> bool:
        """Whether the window is narrower than a group's rows."""
        return self.rule.window > 0 and self.rule.window // 2 < self._key_groups[number].length - 1

    def _has_documents(self) -> bool:
        return self.keys.starts is not None and self.memory is None

    def _added(self, number: int, dtype: torch.dtype, scale: float) -> Tensor | None:
        """What is added to a group's scores: mask and scaled position bias, (rows or 1, heads or 1, queries, keys)."""
        bias, length = None, self._key_groups[number].length
        if self.bias is not None:
            queries = length if self.wanted is None and not self._rectangular else self.bias.shape[2]
            bias = self._selected(self.bias[:, :, :queries, :length], number) * scale
        added = _add(self._mask(number, dtype), bias)
        return None if added is None else added.to(dtype)

    def _selected(self, matrix: Tensor, number: int) -> Tensor:
        """(rows or 1, heads, length, keys) of all tokens -> (rows, heads, queries, keys) of the wanted ones."""
        if self.wanted is None:
            return matrix
        columns = self._query_columns(number)  # (rows, queries)
        if len(matrix) == 1:
            return matrix[0].transpose(0, 1)[columns].transpose(1, 2)
        index = columns[:, None, :, None].expand(-1, matrix.shape[1], -1, matrix.shape[3])
        return matrix.gather(2, index)

    def _mask(self, number: int, dtype: torch.dtype) -> Tensor | None:
        """(rows or 1, 1, queries or 1, keys) of 0 and HIDDEN; None where a group's queries may attend to every key."""
        if (number, dtype) in self._masks:
            return self._masks[number, dtype]
        allowed = self._allowed(number)
        if allowed is None:
            return None
        mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, HIDDEN)
        self._masks[number, dtype] = mask[:, None]
        return self._masks[number, dtype]

    def _allowed(self, number: int) -> Tensor | None:
        """(rows or 1, queries or 1, keys) bool: which keys may be attended to; None where all may."""
        rule, key = self.rule, self._key_tokens(number)
        allowed = None if key.seg is None or self._is_causal(number) else (key.seg > 0)[:, None, :]
        limited, documents = self._limited(number), self._has_documents()
        if not (rule.causal or limited or documents):
            return allowed
        query = self._query_tokens(number)
        distance = key.columns[:, None, :] - query.columns[:, :, None]  # (rows or 1, queries, keys)
        if rule.causal:
            allowed = _both(allowed, distance <= 0)
        if rule.prefix:
            prefix = self._of_keys(self.keys.seg, number) == 1
            allowed = allowed | prefix[:, None, :]
        if limited:
            allowed = _both(allowed, distance.abs() <= rule.window // 2)
        if documents:
            allowed = _both(allowed, query.documents[:, :, None] == key.documents[:, None, :])
        return allowed

    def _key_tokens(self, number: int) -> _Tokens:
        """Segments are None where no key is padding."""
        columns = torch.arange(self._key_groups[number].length, device=self.keys.seg.device)[None]
        padded = self._rectangular or self.keys.padded is None or self.keys.padded[number]
        return _Tokens(columns, self._of_keys(self.keys.seg, number) if padded else None,
                       self._of_keys(self.keys.starts, number) if self._has_documents() else None)

    def _of_keys(self, values: Tensor, number: int) -> Tensor:
        """values (B, S) -> (rows, keys): those of a group."""
        if self._rectangular:
            return values
        start, rows, length = self._key_groups[number]
        return self.keys.gather(values)[start:start + rows * length].view(rows, length)

    def _query_tokens(self, number: int) -> _Tokens:
        """(rows or 1, queries) columns, (rows, queries) documents."""
        documents = self._of_queries(self.layout.starts, number) if self._has_documents() else None
        return _Tokens(self._query_columns(number), None, documents)

    def _query_columns(self, number: int) -> Tensor:
        """(rows, queries), or (1, queries) where all tokens are queries."""
        length = self.layout.seg.shape[1] if self._rectangular else self._key_groups[number].length
        if self.wanted is None:
            return torch.arange(length, device=self.layout.seg.device)[None] + self.layout.first
        start, rows, count = self._query_groups[number]
        if self._rectangular:
            return self.wanted.scatter(self.select(self.layout.columns())[:, None]).squeeze(-1)
        tokens = self.wanted.index[start:start + rows * count] - self._key_groups[number].start
        return (tokens % length).view(rows, count)

    def _of_queries(self, values: Tensor, number: int) -> Tensor:
        """values (B, S) -> (rows, queries): those of a group."""
        if self._rectangular and self.wanted is None:
            return values
        if self._rectangular:
            return self.wanted.scatter(self.select(self.layout.gather(values))[:, None]).squeeze(-1)
        start, rows, count = self._query_groups[number]
        return self.select(self.layout.gather(values))[start:start + rows * count].view(rows, count)


def variable_length(tensor: Tensor, head_size: int) -> bool:
    """Whether FlashAttention's kernel for sequences of unlike lengths (Dao, 2023, arXiv:2307.08691) takes this tensor:
    in half precision, on a GPU since Ampere."""
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
    parts = _by_head(query, packed, queries, keys, heads)
    attended = F.scaled_dot_product_attention(*parts, mask, drop, scale=heads.scale,
                                              enable_gqa=heads.kv_heads != heads.heads)
    return attended.transpose(1, 2).reshape(len(query), -1)


def _by_head(query: Tensor | None, packed: Tensor, query_group: Group, key_group: Group,
             heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """A group's query (rows, heads, queries, size), key and value (rows, kv_heads, keys, size)."""
    query_width, key_width = heads.heads * heads.size, heads.kv_heads * heads.size
    if query is None:
        query, *others = packed.split([query_width, key_width, key_width], dim=-1)
    else:
        others = packed.split(key_width, dim=-1)
    parts = (query, query_group), *((part, key_group) for part in others)
    # The number of heads is given: it cannot be inferred where a group has no queries.
    return tuple(part[start:start + rows * length].view(rows, length, part.shape[1] // heads.size, heads.size)
                 .transpose(1, 2) for part, (start, rows, length) in parts)


def _with_scores(query: Tensor, key: Tensor, value: Tensor, added: Tensor | None, heads: Heads,
                 drop: float) -> tuple[Tensor, Tensor]:
    """Attention by its formula, and its scores (rows, heads, queries, keys)."""
    if heads.kv_heads != heads.heads:
        key, value = (part.repeat_interleave(heads.heads // heads.kv_heads, dim=1) for part in (key, value))
    scores = _add((query * heads.scale) @ key.transpose(-1, -2), added)
    return dropout(scores.softmax(-1), drop) @ value, scores


def _add(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    if left is None or right is None:
        return left if right is None else right
    return left + right


def _both(left: Tensor | None, right: Tensor) -> Tensor:
    return right if left is None else left & right
