"""Exact attention with dropout for CPUs, tile by tile.

torch's fused CPU attention cannot drop attention weights, and its fallback writes several (B, heads, S, S) matrices to
memory. Here a tile of some rows of one head (or heads of one row) is small enough for the cache: its scores are
computed, normalised, dropped and multiplied by the values before the next tile begins. The backward pass computes the
scores again; only the dropout masks are kept, one byte an element.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from uer.layers.layout import Group
from uer.layers.random_bits import KeepMasks

Tile = tuple[int | slice, int | slice]

TILE_ELEMENTS = 131072  # 512 KiB of float32 scores: what a core's cache holds


def cpu_attention(qkv: Tensor, groups: list[Group], masks: dict[int, Tensor], heads: int, scale: float,
                  drop: float) -> Tensor:
    """softmax(scale * Q K^T + mask) V within each row.

    Args:
        qkv: (N, 3 * H) queries, keys and values side by side.
        groups: the rows; they must cover all N tokens.
        masks: for some groups, (rows or 1, 1, length or 1, length) to be added to their scores.
        heads: attention heads.
        scale: what the dot products are multiplied by.
        drop: probability of dropping an attention weight.

    Returns:
        (N, H)
    """
    return _CpuAttention.apply(qkv, groups, masks, heads, scale, drop)


class _CpuAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv: Tensor, groups: list[Group], masks: dict[int, Tensor], heads: int, scale: float,
                drop: float) -> Tensor:
        output = qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)
        keep_masks = KeepMasks(drop) if drop else None
        keeps: list[Tensor] = []
        buffer = qkv.new_empty(_largest_tile(groups, heads))
        for number, group in enumerate(groups):
            query, key, value = _by_head(qkv, group, heads, 3)
            (out,) = _by_head(output, group, heads, 1)
            for tile in _tiles(group, heads):
                weights = _weights(query[tile], key[tile], _mask(masks, number, group, heads, tile), scale, buffer)
                if keep_masks:
                    keeps.append(keep_masks.draw(weights.shape))
                    weights.mul_(keeps[-1])
                torch.bmm(weights, value[tile], out=out[tile])
        ctx.save_for_backward(qkv)
        ctx.settings = groups, masks, heads, scale
        ctx.keeps = keeps
        ctx.keep_scale = keep_masks.scale if keep_masks else 1.0
        return output.mul_(ctx.keep_scale) if keep_masks else output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (qkv,) = ctx.saved_tensors
        groups, masks, heads, scale = ctx.settings
        grad = grad * ctx.keep_scale if ctx.keeps else grad.contiguous()
        grad_qkv = torch.empty_like(qkv)
        buffers = qkv.new_empty(3, _largest_tile(groups, heads))
        keeps = iter(ctx.keeps)
        for number, group in enumerate(groups):
            inputs, gradients = _by_head(qkv, group, heads, 3), _by_head(grad_qkv, group, heads, 3)
            (grad_out,) = _by_head(grad, group, heads, 1)
            for tile in _tiles(group, heads):
                query, key, value = (part[tile] for part in inputs)
                mask = _mask(masks, number, group, heads, tile)
                weights = _weights(query, key, mask, scale, buffers[0])
                _tile_backward(query, key, value, weights, next(keeps, None), grad_out[tile], scale,
                               [part[tile] for part in gradients], buffers[1:])
        return grad_qkv, None, None, None, None, None


def _tile_backward(query: Tensor, key: Tensor, value: Tensor, weights: Tensor, keep: Tensor | None, grad: Tensor,
                   scale: float, gradients: list[Tensor], buffers: Tensor) -> None:
    """Write the gradients of a tile's query, key and value."""
    work = _matrices(buffers[0], weights.shape)
    torch.bmm(grad, value.transpose(1, 2), out=work)
    dropped = weights
    if keep is not None:
        work.mul_(keep)
        dropped = torch.mul(weights, keep, out=_matrices(buffers[1], weights.shape))
    torch.bmm(dropped.transpose(1, 2), grad, out=gradients[2])
    torch.ops.aten._softmax_backward_data.out(work, weights, -1, weights.dtype, grad_input=work)
    torch.baddbmm(gradients[0], work, key, beta=0, alpha=scale, out=gradients[0])
    torch.baddbmm(gradients[1], work.transpose(1, 2), query, beta=0, alpha=scale, out=gradients[1])


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, buffer: Tensor) -> Tensor:
    """(tile, length, d) twice -> (tile, length, length) attention weights, in `buffer`"""
    weights = _matrices(buffer, (len(query), query.shape[1], query.shape[1]))
    torch.baddbmm(weights, query, key.transpose(1, 2), beta=0, alpha=scale, out=weights)
    if mask is not None:
        weights.add_(mask)
    return torch.ops.aten._softmax.out(weights, -1, False, out=weights)


def _matrices(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    return buffer[:math.prod(shape)].view(*shape)


def _by_head(matrix: Tensor, group: Group, heads: int, parts: int) -> tuple[Tensor, ...]:
    """(N, parts * heads * d) -> for each part a view (rows, heads, length, d) of the group's rows"""
    tokens = matrix[group.start:group.start + group.rows * group.length]
    return tokens.view(group.rows, group.length, parts, heads, -1).permute(2, 0, 3, 1, 4).unbind()


def _mask(masks: dict[int, Tensor], number: int, group: Group, heads: int, tile: Tile) -> Tensor | None:
    mask = masks.get(number)
    return None if mask is None else mask.expand(group.rows, heads, -1, -1)[tile]


def _tiles(group: Group, heads: int) -> Iterator[Tile]:
    """Indices into (rows, heads, ...): some rows of one head, or some heads of one row, whichever makes fewer tiles."""
    size = max(1, TILE_ELEMENTS // group.length**2)
    if group.rows >= heads:
        for head in range(heads):
            for row in range(0, group.rows, size):
                yield slice(row, row + size), head
    else:
        for row in range(group.rows):
            for head in range(0, heads, size):
                yield row, slice(head, head + size)


def _largest_tile(groups: list[Group], heads: int) -> int:
    return max(min(max(1, TILE_ELEMENTS // length**2), max(rows, heads)) * length**2 for _, rows, length in groups)
