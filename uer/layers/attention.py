"""Multi-head self-attention (Vaswani et al., 2017) on rows laid end to end."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.layers.cpu_attention import cpu_attention
from uer.layers.layout import Layout
from uer.layers.linear import Linear


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

    def forward(self, hidden: Tensor, layout: Layout, bias: Tensor | None = None,
                previous: list[Tensor] | None = None) -> Tensor:
        """
        Args:
            hidden: (N, H).
            layout: which tokens form a row; its groups' masks say what each may attend to.
            bias: (1, heads, S, S) position bias, for the longest row.
            previous: with `residual`, the scores of the layer before, one for each group; replaced by this layer's.

        Returns:
            (N, H)
        """
        qkv = self._project(hidden)
        if self._runs_tiled(qkv, bias):
            drop = self.dropout if self.training else 0.0
            return self.final_linear(cpu_attention(qkv, layout.groups, layout.masks, self.heads, self.scale, drop))
        query, key, value = qkv.chunk(3, dim=-1)
        parts = []
        for number, group in enumerate(layout.groups):
            rows = slice(group.start, group.start + group.rows * group.length)
            shape = (group.rows, group.length, self.heads, -1)
            q, k, v = (x[rows].view(shape).transpose(1, 2) for x in (query, key, value))  # (rows, heads, length, d)
            part = self._attend(q, k, v, layout, number, bias, previous)
            parts.append(part.transpose(1, 2).reshape(-1, hidden.shape[-1]))
        return self.final_linear(parts[0] if len(parts) == 1 else torch.cat(parts))

    def _runs_tiled(self, qkv: Tensor, bias: Tensor | None) -> bool:
        return (qkv.device.type == "cpu" and qkv.dtype in (torch.float32, torch.float64) and bias is None
                and not self.residual and not torch.compiler.is_compiling())

    def _project(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (N, 3 * H): queries, keys, values"""
        weight = torch.cat([layer.weight for layer in self.linear_layers])
        biases = [layer.bias for layer in self.linear_layers]
        bias = None if biases[0] is None else torch.cat(biases)
        return F.linear(hidden, weight, bias)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, number: int, bias: Tensor | None,
                previous: list[Tensor] | None) -> Tensor:
        """(rows, heads, length, d) each -> the same"""
        mask = layout.masks.get(number)
        dropout = self.dropout if self.training else 0.0
        if bias is not None:
            length = query.shape[2]
            scaled = (bias[:, :, :length, :length] * self.scale).to(query.dtype)
            mask = scaled if mask is None else scaled + mask
        if self.residual:
            return self._attend_residual(query, key, value, mask, dropout, number, previous)
        if mask is not None:
            mask = mask.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=self.scale)

    def _attend_residual(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float,
                         number: int, previous: list[Tensor]) -> Tensor:
        scores = (query * self.scale) @ key.transpose(-1, -2)
        if mask is not None:
            scores = scores + mask
        if number < len(previous):
            scores = scores + previous[number]
            previous[number] = scores
        else:
            previous.append(scores)
        return F.dropout(scores.softmax(-1), dropout) @ value
