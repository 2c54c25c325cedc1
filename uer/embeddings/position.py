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

    @torch.no_grad()
    def start_sinusoidal(self, root_mean_square: float) -> None:
        """Let the rows start as those of `SinusoidalPositionEmbedding`, in which neighbours are alike; scaled."""
        weight = self.embedding.weight
        weight.copy_(sinusoids(*weight.shape, weight.device)).mul_(root_mean_square / weight.square().mean().sqrt())

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
        self.table.copy_(sinusoids(*self.shape, self.table.device))

    def forward(self, src: Tensor, layout: Layout) -> Tensor:
        """src (B, S) -> (N, E)"""
        return self.table[layout.positions()]


def sinusoids(length: int, size: int, device: torch.device) -> Tensor:
    """(length, size): sin(position * frequency) in the even columns, cos in the odd ones; frequencies from 1 down to
    nearly 1 / 10000."""
    table = torch.empty(length, size, device=device)
    position = torch.arange(length, device=device).float()[:, None]
    frequency = torch.exp(torch.arange(0, size, 2, device=device) * (-math.log(10000.0) / size))
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)[:, :size // 2]
    return table
