"""The two embeddings of the dual encoder."""

from torch import Tensor, nn

from uer.config import DUAL, ModelConfig
from uer.embeddings.container import EmbeddingSum
from uer.errors import UserError
from uer.layers.layout import Layout
from uer.registry import choose


class DualEmbedding(nn.Module):
    """Two sums of embeddings, each with its own layer norm and dropout: that of `stream_0` and that of `stream_1`.

    With `tie_weights` both are the same module, that of `stream_0`.
    """

    complete = True

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding_0 = _sum(config.stream(0), vocab_size)
        self.embedding_1 = self.embedding_0 if config.tie_weights else _sum(config.stream(1), vocab_size)

    def stream(self, number: int) -> EmbeddingSum:
        """The embedding of stream 0 or 1."""
        return (self.embedding_0, self.embedding_1)[number]

    def forward(self, src: Tensor, layout: Layout) -> Tensor:
        """src (B, S) -> (N, E): that of stream 0."""
        return self.embedding_0(src, layout)


def _sum(config: ModelConfig, vocab_size: int) -> EmbeddingSum:
    """The embeddings of one stream."""
    from uer.embeddings import EMBEDDINGS  # which has this module's class as an entry

    if DUAL in config.embedding:
        raise UserError("embedding 'dual': stream_0 and stream_1 of --config_path must name other embeddings")
    parts = {name: choose(EMBEDDINGS, name, "embedding")(config, vocab_size) for name in config.embedding}
    return EmbeddingSum(parts, config)
