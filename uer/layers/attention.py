"""Multi-head self-attention (Vaswani et al., 2017) on rows laid end to end."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.layers.cpu_attention import cpu_attention
from uer.layers.dropout import dropout
from uer.layers.layout import Group, Layout, Queries
from uer.layers.linear import Linear

Scores = list[Tensor] | None


class SelfAttention(nn.Module):
    """Attention of the tokens of each row to one another.

    `linear_layers` are query, key and value, as UER names them; they run as one matrix product.
    """

    def __init__(self, hidden_size: int, heads: int, dropout: float = 0.0, *, bias: bool = True, scale: bool = True,
                 residual: bool = False) -> None:
        """
        Args:
            hidden_size: H; must be divisible by `heads`.
            heads: attention heads.
            dropout: probability of dropping an attention weight while training.
            bias: whether the linear layers have biases.
            scale: whether scores (the position bias included, as in UER-py) are divided by sqrt(head size).
            residual: whether scores are handed on to the next layer (He et al., 2020, RealFormer).
        """
        super().__init__()
        assert hidden_size % heads == 0
        self.heads = heads
        self.dropout = dropout
        self.scale = 1.0 / math.sqrt(hidden_size // heads) if scale else 1.0
        self.residual = residual
        self.linear_layers = nn.ModuleList(Linear(hidden_size, hidden_size, bias) for _ in range(3))
        self.final_linear = Linear(hidden_size, hidden_size, bias)

    def forward(self, hidden: Tensor, layout: Layout, bias: Tensor | None = None, scores: Scores = None,
                queries: Queries | None = None) -> tuple[Tensor, Scores]:
        """
        Args:
            hidden: (N, H).
            layout: which tokens form a row; its groups' masks say what each may attend to.
            bias: (1, heads, S, S) position bias, for the longest row.
            scores: with `residual`, the layer before's, one tensor for each group; None in the first layer.
            queries: the tokens that are to attend; all when None. Not with a bias or `residual`.

        Returns:
            (N, H), or (K, H) for `queries`; and with `residual` this layer's scores.
        """
        query, packed = self._project(hidden, queries)
        query_groups = layout.groups if queries is None else queries.groups
        drop = self.dropout if self.training else 0.0
        if self._runs_tiled(packed, bias):
            masks = {number: layout.mask(number, queries) for number in layout.masks}
            output = cpu_attention(query, packed, layout.groups, query_groups, masks, self.heads, self.scale, drop)
            return self.final_linear(output), None
        parts, new_scores = [], []
        for number, group in enumerate(layout.groups):
            query_part, key, value = self._by_head(query, packed, group, query_groups[number])
            mask = _add(layout.mask(number, queries), self._bias(bias, group.length))
            mask = mask.to(value.dtype) if mask is not None else None
            if self.residual:
                previous = scores[number] if scores else None
                part, score = self._attend_residual(query_part, key, value, _add(mask, previous), drop)
                new_scores.append(score)
            else:
                part = F.scaled_dot_product_attention(query_part, key, value, mask, drop, scale=self.scale)
            parts.append(part.transpose(1, 2).reshape(-1, hidden.shape[-1]))
        return self.final_linear(parts[0] if len(parts) == 1 else torch.cat(parts)), new_scores or None

    def _project(self, hidden: Tensor, queries: Queries | None) -> tuple[Tensor | None, Tensor]:
        """(N, H) -> queries (K, H), keys and values (N, 2 * H); or None and (N, 3 * H) all three where all are asked"""
        query, *others = self.linear_layers
        if queries is None:
            return None, _joined(self.linear_layers, hidden)
        return query(hidden.index_select(0, queries.index)), _joined(others, hidden)

    def _by_head(self, query: Tensor | None, packed: Tensor, group: Group,
                 query_group: Group) -> tuple[Tensor, Tensor, Tensor]:
        """A group's query, key and value, (rows, heads, length, d) each."""
        parts = [] if query is None else [(query, query_group)]
        parts += [(part, group) for part in packed.split(self.final_linear.in_features, dim=-1)]
        return tuple(part[start:start + rows * length].view(rows, length, self.heads, -1).transpose(1, 2)
                     for part, (start, rows, length) in parts)

    def _runs_tiled(self, packed: Tensor, bias: Tensor | None) -> bool:
        return (packed.device.type == "cpu" and packed.dtype in (torch.float32, torch.float64) and bias is None
                and not self.residual and not torch.compiler.is_compiling())

    def _bias(self, bias: Tensor | None, length: int) -> Tensor | None:
        return None if bias is None else bias[:, :, :length, :length] * self.scale

    def _attend_residual(self, query: Tensor, key: Tensor, value: Tensor, added: Tensor | None,
                         drop: float) -> tuple[Tensor, Tensor]:
        scores = _add((query * self.scale) @ key.transpose(-1, -2), added)
        return dropout(scores.softmax(-1), drop) @ value, scores


def _joined(layers: Sequence[nn.Linear], hidden: Tensor) -> Tensor:
    """The layers' outputs side by side, from one matrix product."""
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return F.linear(hidden, torch.cat([layer.weight for layer in layers]), bias)


def _add(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    if left is None or right is None:
        return left if right is None else right
    return left + right
