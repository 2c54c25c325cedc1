"""The embedding of a token's segment number."""

import torch
from torch import Tensor, nn

from uer.config import ModelConfig
from uer.layers.layout import Layout, static_shapes
from uer.layers.linear import Embedding

SEGMENTS = 3


class SegmentEmbedding(nn.Module):
    """Rows for padding (0), the first (1) and the second (2) sentence.

    On a GPU the gradients of a lookup are added by atomic operations; all tokens would add theirs to the same two or
    three rows, one after another. There rows are selected by comparisons instead, and each gradient is a sum over
    the tokens.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding = Embedding(SEGMENTS, config.emb_size)

    def forward(self, src: Tensor, layout: Layout) -> Tensor:
        """src (B, S) -> (N, E)"""
        seg = layout.gather(layout.seg)  # (N,)
        if not static_shapes(src):
            return self.embedding(seg)
        seg, (padding, first, second) = seg[:, None], self.embedding.weight  # (N, 1), (E,) each
        return torch.where(seg == 1, first, torch.where(seg == 2, second, padding))
