"""The embedding of a token's segment number."""

from torch import Tensor, nn

from uer.config import ModelConfig
from uer.layers.linear import Embedding

SEGMENTS = 3


class SegmentEmbedding(nn.Module):
    """Rows for padding (0), the first (1) and the second (2) sentence."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding = Embedding(SEGMENTS, config.emb_size)

    def forward(self, src: Tensor, positions: Tensor, seg: Tensor) -> Tensor:
        """(N,) each -> (N, E)"""
        return self.embedding(seg)
