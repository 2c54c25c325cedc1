"""Embeddings of a token's position in its row: learned, and sinusoidal."""

import math

import torch
from torch import Tensor, nn

from uer.config import ModelConfig
from uer.layers.linear import Embedding


class PositionEmbedding(nn.Module):
    """One learned row for each position, `max_seq_length` of them."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding = Embedding(config.max_seq_length, config.emb_size)

    def forward(self, src: Tensor, positions: Tensor, seg: Tensor) -> Tensor:
        """(N,) each -> (N, E)"""
        return self.embedding(positions)


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

    def forward(self, src: Tensor, positions: Tensor, seg: Tensor) -> Tensor:
        """(N,) each -> (N, E)"""
        return self.table[positions]
