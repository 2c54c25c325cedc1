"""The sum of the chosen embeddings, with layer norm and dropout."""

import math
from collections.abc import Mapping
from functools import reduce
from operator import add

from torch import Tensor, nn

from uer.config import ModelConfig
from uer.layers.dropout import Dropout
from uer.layers.layout import Layout
from uer.layers.norm import build_norm


class EmbeddingSum(nn.Module):
    """Children carry their `--embedding` names, so that parameters are named `embedding.word.embedding.weight`.

    A model has one for its source side, `embedding`, and with a decoder one for the other, `tgt_embedding`. A part
    whose class says `complete` has layer norms and dropout of its own; no others follow.
    """

    def __init__(self, parts: Mapping[str, nn.Module], config: ModelConfig) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.names = tuple(parts)
        # Vaswani et al. (2017, 3.4) multiply the word embedding where sines of amplitude 1 are added to it.
        self.scale = {"word": math.sqrt(config.emb_size)} if "sinusoidalpos" in parts else {}
        complete = any(getattr(part, "complete", False) for part in parts.values())
        self.dropout = Dropout(0.0 if complete else config.dropout)
        self.layer_norm = (None if config.remove_embedding_layernorm or complete else
                           build_norm("normal", config.emb_size, config.layernorm_eps,
                                      not config.remove_layernorm_bias))

    def stream(self, number: int) -> "EmbeddingSum":
        """The embedding of stream 0 or 1 of a dual encoder; of every other encoder this one."""
        part = getattr(self, "dual", None)
        return self if part is None else part.stream(number)

    def forward(self, src: Tensor, layout: Layout) -> Tensor:
        """src (B, S) vocabulary entries -> (N, E) for the positions that `layout` computes."""
        total = reduce(add, [self._part(name, src, layout) for name in self.names])  # (N, E)
        if self.layer_norm is not None:
            total = self.layer_norm(total)
        return self.dropout(total)

    def _part(self, name: str, src: Tensor, layout: Layout) -> Tensor:
        """src (B, S) -> (N, E): one embedding of the sum."""
        embedded = getattr(self, name)(src, layout)
        return embedded * self.scale[name] if name in self.scale else embedded
