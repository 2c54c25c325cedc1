"""Embeddings by their `--embedding` names; an encoder's input is the sum of those that are chosen."""

from uer.embeddings.container import EmbeddingSum
from uer.embeddings.position import PositionEmbedding, SinusoidalPositionEmbedding
from uer.embeddings.segment import SegmentEmbedding
from uer.embeddings.word import WordEmbedding

EMBEDDINGS = {
    "word": WordEmbedding,
    "pos": PositionEmbedding,
    "seg": SegmentEmbedding,
    "sinusoidalpos": SinusoidalPositionEmbedding,
}
PLANNED = ("dual",)

__all__ = ["EMBEDDINGS", "PLANNED", "EmbeddingSum"]
