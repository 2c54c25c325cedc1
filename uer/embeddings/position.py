"""Embeddings of a token's position in its row: learned, and sinusoidal."""

import math

import torch
from torch import Tensor, nn

from uer.config import ModelConfig
from uer.layers.layout import Layout, static_shapes
from uer.layers.linear import Embedding


class PositionEmbedding(nn.Module):
    """One learned row for each position, `max_seq_length` of them.

    On a GPU the gradients of a lookup are added by atomic operations, which wait for one another where many tokens have
    the same position. Where every row has the positions 0 to S - 1 the first S rows of the weight are repeated instead,
    and the gradient is a sum over the batch.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding = Embedding(config.max_seq_length, config.emb_size)

    def forward(self, src: Tensor, layout: Layout) -> Tensor:
        """src (B, S) -> (N, E)"""
        if layout.index is not None or layout.starts is not None or not static_shapes(src):
            return self.embedding(layout.positions())
        batch, length = src.shape
        rows = self.embedding.weight[layout.first:layout.first + length]  # (S, E)
        return rows.expand(batch, -1, -1).flatten(0, 1)  # (B * S, E), N = B * S


class SinusoidalPositionEmbedding(nn.Module):
    """Fixed sines (even features) and cosines (odd ones) of growing wave length (Vaswani et al., 2017)."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.shape = (config.max_seq_length, config.emb_size)
        self.register_buffer("table", torch.empty(self.shape), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        length, size = self.shape
        position = torch.arange(length, device=self.table.device).float()[:, None]
        frequency = torch.exp(torch.arange(0, size, 2, device=self.table.device) * (-math.log(10000.0) / size))
        self.table[:, 0::2] = torch.sin(position * frequency)
        self.table[:, 1::2] = torch.cos(position * frequency)[:, :size // 2]

    def forward(self, src: Tensor, layout: Layout) -> Tensor:
        """src (B, S) -> (N, E)"""
        return self.table[layout.positions()]
