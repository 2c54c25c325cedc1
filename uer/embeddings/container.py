"""The sum of the chosen embeddings, with layer norm and dropout."""

from collections.abc import Mapping

from torch import Tensor, nn

from uer.config import ModelConfig
from uer.layers.dropout import Dropout
from uer.layers.layout import Layout
from uer.layers.norm import LayerNorm


class EmbeddingSum(nn.Module):
    """Children carry their `--embedding` names, so that parameters are named `embedding.word.embedding.weight`."""

    def __init__(self, parts: Mapping[str, nn.Module], config: ModelConfig) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.names = tuple(parts)
        self.dropout = Dropout(config.dropout)
        self.layer_norm = None if config.remove_embedding_layernorm else LayerNorm(config.emb_size)

    def forward(self, src: Tensor, layout: Layout) -> Tensor:
        """src (B, S) vocabulary entries -> (N, E) for the positions that `layout` computes."""
        src, seg, columns = layout.gather(src), layout.gather(layout.seg), layout.columns()
        total = sum(getattr(self, name)(src, columns, seg) for name in self.names)
        if self.layer_norm is not None:
            total = self.layer_norm(total)
        return self.dropout(total)
