"""Exact attention with dropout for CPUs, tile by tile; `uer.layers.view` calls it.

torch's fused CPU attention cannot drop attention weights, and its fallback writes several (B, heads, S, S) matrices to
memory. Here a tile of some rows of one head (or heads of one row) is small enough for the cache: its scores are
computed, normalised, dropped and multiplied by the values before the next tile begins. The backward pass computes the
scores again; only the dropout masks are kept, one byte an element.

A tile of 3 rows of one head, with 5 queries and 13 keys of 7 features:

    query (3, 5, 7) @ key^T (3, 7, 13) -> scores (3, 5, 13), softmax, dropout, @ value (3, 13, 7) -> (3, 5, 7)

The tokens of a group are rows of a matrix (N, parts * heads * size), parts being query, key and value side by side. A
view (rows, heads, length, size) of each part needs no copy, and the gradients are written through such views as well.

Groups of few short rows are many, and starting an operation takes longer than its arithmetic there. Such a small group
is one tile: its rows are copied, so that (rows, heads) become one dimension of matrices.

It has no bfloat16 form: with such factors it takes 0.9 (rows of 512) to 1.15 (128) of the time where the CPU multiplies
them itself (measured with AMX), and oneDNN compiles a kernel for each new number and length of rows, which takes longer
than the rows do.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from uer.layers.cpu.random_bits import KeepMasks
from uer.layers.layout import Group

Tile = tuple[int | slice, int | slice]

TILE_ELEMENTS = 131072  # 512 KiB of float32 scores: what a core's cache holds


def cpu_attention(query: Tensor | None, packed: Tensor, groups: list[Group], query_groups: list[Group],
                  masks: dict[int, Tensor], heads: int, scale: float, drop: float) -> Tensor:
    """softmax(scale * Q K^T + mask) V within each row.

    Args:
        query: (K, H), or None where all tokens are queries and `packed` holds them.
        packed: (N, 2 * H) keys and values side by side, or (N, 3 * H) queries, keys and values; float32 or float64.
        groups: the rows; they must cover all N tokens.
        query_groups: the same rows in the matrix of queries; they must cover all of it.
        masks: for some groups, (rows or 1, 1, queries or 1, keys) to be added to their scores.
        heads: attention heads.
        scale: what the dot products are multiplied by.
        drop: probability of dropping an attention weight.

    Returns:
        (K, H), or (N, H) without `query`
    """
    return _CpuAttention.apply(query, packed, _Plan(groups, query_groups, masks, heads, scale), drop)


@dataclass
class _Plan:
    """What both passes know; the arguments of `cpu_attention`."""

    groups: list[Group]
    query_groups: list[Group]
    masks: dict[int, Tensor]
    heads: int
    scale: float

    def views(self, query: Tensor | None, packed: Tensor, number: int) -> list[Tensor]:
        """A group's query, key and value as (parts, rows, heads, length, size): all three, or one and two."""
        if query is None:
            return [_by_head(packed, self.groups[number], self.heads, 3)]
        return [_by_head(query, self.query_groups[number], self.heads, 1),
                _by_head(packed, self.groups[number], self.heads, 2)]

    def scores(self, number: int) -> int:
        """How many scores one row of a group has for one head."""
        return self.groups[number].length * self.query_groups[number].length

    def is_small(self, number: int) -> bool:
        """Whether a group is copied to be one tile; in a larger one the arithmetic outweighs starting it."""
        return self.groups[number].rows * self.heads * self.scores(number) <= TILE_ELEMENTS // 2

    def tiles(self, number: int) -> Iterator[Tile]:
        """Indices into `_matrices`: all of a small group; else some rows of one head, or some heads of one row,
        whichever are fewer."""
        rows, size = self.groups[number].rows, max(1, TILE_ELEMENTS // max(1, self.scores(number)))
        if self.is_small(number):
            yield 0, slice(None)
        elif rows >= self.heads:
            for head in range(self.heads):
                for row in range(0, rows, size):
                    yield slice(row, row + size), head
        else:
            for row in range(rows):
                for head in range(0, self.heads, size):
                    yield row, slice(head, head + size)

    def mask(self, number: int, tile: Tile) -> Tensor | None:
        """A tile's mask, broadcastable to (tile, queries, keys)."""
        mask = self.masks.get(number)
        if mask is None or len(mask) == 1:
            return None if mask is None else mask[0]
        if self.is_small(number):
            return mask.expand(-1, self.heads, -1, -1).flatten(0, 1)
        return mask.expand(self.groups[number].rows, self.heads, -1, -1)[tile]

    def largest_tile(self) -> int:
        """How many scores a tile has at most."""
        scores = [(self.groups[number].rows * self.heads, self.scores(number)) for number in range(len(self.groups))]
        return max(count * min(matrices, max(1, TILE_ELEMENTS // max(1, count))) for matrices, count in scores)


class _CpuAttention(torch.autograd.Function):
    """Dropped weights are multiplied by 1 / (1 - drop) at the end, in the output: weights are softmax * keep here."""

    @staticmethod
    def forward(ctx, query: Tensor | None, packed: Tensor, plan: _Plan, drop: float) -> Tensor:
        output = packed.new_empty(packed.shape[0], packed.shape[1] // 3) if query is None else torch.empty_like(query)
        keep_masks = KeepMasks(drop) if drop else None
        keeps: list[Tensor] = []
        buffer = packed.new_empty(plan.largest_tile())
        for number, group in enumerate(plan.query_groups):
            small, views = plan.is_small(number), [_by_head(output, group, plan.heads, 1)]
            queries, keys, values = _matrices(plan.views(query, packed, number), small)
            results = _contiguous(views, small)
            (out,) = _matrices(results, small)
            for tile in plan.tiles(number):
                weights = _weights(queries[tile], keys[tile], plan.mask(number, tile), plan.scale, buffer)
                if keep_masks:
                    keeps.append(keep_masks.draw(weights.shape))
                    weights.mul_(keeps[-1])
                torch.bmm(weights, values[tile], out=out[tile])
            _copy(results, views)
        ctx.save_for_backward(query, packed)
        ctx.plan, ctx.keeps = plan, keeps
        ctx.keep_scale = keep_masks.scale if keep_masks else 1.0
        return output.mul_(ctx.keep_scale) if keep_masks else output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, packed = ctx.saved_tensors
        plan, keeps = ctx.plan, iter(ctx.keeps)
        grad = grad * ctx.keep_scale if ctx.keeps else grad.contiguous()
        grad_query = None if query is None else torch.empty_like(query)
        grad_packed = torch.empty_like(packed)
        buffers = packed.new_empty(3, plan.largest_tile())
        for number, group in enumerate(plan.query_groups):
            small, views = plan.is_small(number), plan.views(grad_query, grad_packed, number)
            inputs, results = _matrices(plan.views(query, packed, number), small), _contiguous(views, small)
            gradients = _matrices(results, small)
            (grad_out,) = _matrices([_by_head(grad, group, plan.heads, 1)], small)
            for tile in plan.tiles(number):
                tile_inputs = [part[tile] for part in inputs]
                weights = _weights(*tile_inputs[:2], plan.mask(number, tile), plan.scale, buffers[0])
                _tile_backward(*tile_inputs, weights, next(keeps, None), grad_out[tile], plan.scale,
                               [part[tile] for part in gradients], buffers[1:])
            _copy(results, views)
        return grad_query, grad_packed, None, None


def _tile_backward(query: Tensor, key: Tensor, value: Tensor, weights: Tensor, keep: Tensor | None, grad: Tensor,
                   scale: float, gradients: list[Tensor], buffers: Tensor) -> None:
    """Write the gradients of a tile's query, key and value.

    With W the weights before and D = W * keep those after dropout, out = D V and W = softmax(scale * Q K^T + mask):

        dV = D^T dout           dW = (dout V^T) * keep      dS = softmax's backward of dW
        dQ = scale * dS K       dK = scale * dS^T Q

    Args:
        query, grad: (tile, queries, size).
        key, value: (tile, keys, size).
        weights: (tile, queries, keys) W.
        keep: the same shape, 1 for kept weights and 0 for dropped ones; None without dropout.
        gradients: views of those of query, key and value; overwritten.
        buffers: (2, at least the weights' elements) memory to work in.
    """
    work = _beginning(buffers[0], weights.shape)
    torch.baddbmm(work, grad, value.transpose(1, 2), beta=0, out=work)
    dropped = weights
    if keep is not None:
        work.mul_(keep)
        dropped = torch.mul(weights, keep, out=_beginning(buffers[1], weights.shape))
    torch.bmm(dropped.transpose(1, 2), grad, out=gradients[2])
    torch.ops.aten._softmax_backward_data.out(work, weights, -1, weights.dtype, grad_input=work)
    torch.baddbmm(gradients[0], work, key, beta=0, alpha=scale, out=gradients[0])
    torch.baddbmm(gradients[1], work.transpose(1, 2), query, beta=0, alpha=scale, out=gradients[1])


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, buffer: Tensor) -> Tensor:
    """(tile, queries, size), (tile, keys, size) -> (tile, queries, keys) attention weights, in `buffer`"""
    weights = _beginning(buffer, (len(query), query.shape[1], key.shape[1]))
    torch.baddbmm(weights, query, key.transpose(1, 2), beta=0, alpha=scale, out=weights)
    if mask is not None:
        weights.add_(mask)
    return torch.ops.aten._softmax.out(weights, -1, False, out=weights)


def _beginning(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    """The beginning of the buffer as a tensor of this shape."""
    return buffer[:math.prod(shape)].view(*shape)


def _by_head(matrix: Tensor, group: Group, heads: int, parts: int) -> Tensor:
    """(N, parts * heads * size) -> a view (parts, rows, heads, length, size) of the group's rows"""
    tokens = matrix[group.start:group.start + group.rows * group.length]
    size = matrix.shape[1] // (parts * heads)
    return tokens.view(group.rows, group.length, parts, heads, size).permute(2, 0, 3, 1, 4)


def _matrices(views: list[Tensor], small: bool) -> list[Tensor]:
    """(parts, rows, heads, length, size) each -> all parts: (rows, heads, length, size), or (1, rows * heads, length,
    size) of a small group, which is copied where its memory has another order."""
    return [part for view in views for part in (view.flatten(1, 2).unsqueeze(1) if small else view)]


def _contiguous(views: list[Tensor], small: bool) -> list[Tensor]:
    """New memory for the results of a small group, for `_matrices` without copies; the views themselves of another."""
    return [torch.empty_like(view, memory_format=torch.contiguous_format) for view in views] if small else views


def _copy(results: list[Tensor], views: list[Tensor]) -> None:
    for result, view in zip(results, views):
        if result is not view:
            view.copy_(result)
