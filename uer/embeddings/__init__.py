"""Embeddings by their `--embedding` names; the input of the encoder is the sum of the chosen ones."""

from uer.embeddings.container import EmbeddingSum
from uer.embeddings.dual import DualEmbedding
from uer.embeddings.position import PositionEmbedding, SinusoidalPositionEmbedding
from uer.embeddings.segment import SegmentEmbedding
from uer.embeddings.word import WordEmbedding

EMBEDDINGS = {
    "word": WordEmbedding,
    "pos": PositionEmbedding,
    "seg": SegmentEmbedding,
    "sinusoidalpos": SinusoidalPositionEmbedding,
    "dual": DualEmbedding,
}

__all__ = ["EMBEDDINGS", "EmbeddingSum"]
