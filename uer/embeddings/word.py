"""The embedding of a token's vocabulary entry."""

from torch import Tensor, nn

from uer.config import ModelConfig
from uer.layers.layout import Layout
from uer.layers.linear import Embedding


class WordEmbedding(nn.Module):
    """One row for each vocabulary entry."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding = Embedding(vocab_size, config.emb_size)

    def forward(self, src: Tensor, layout: Layout) -> Tensor:
        """src (B, S) -> (N, E)"""
        return self.embedding(layout.gather(src))
