"""The part of a model that every use of it shares: embedding and encoder. Targets and decoder are in `uer.model`."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from uer.config import ModelConfig
from uer.embeddings import EMBEDDINGS, EmbeddingSum
from uer.encoders import ENCODERS
from uer.errors import UserError
from uer.layers.layout import (
    Layout,
    document_starts,
    packed_layout,
    padded_layout,
    static_shapes,
    unpadded_layout,
)
from uer.layers.linear import INITIAL_STD
from uer.meta_device import require_memory
from uer.registry import choose

# Scaled down by `deep_init`: what a layer adds to the residual stream.
RESIDUAL_OUTPUTS = ("self_attn.final_linear.weight", "context_attn.final_linear.weight",
                    "feed_forward.linear_2.weight")


class Packing(Protocol):
    """The size of a batch without padding, where shapes are static; arguments of `packed_layout`."""

    tokens: int
    predictions: int
    sequences: int


class Backbone(nn.Module):
    """Embedding and encoder: tokens to hidden states. Fine-tuning heads build on it.

    Attributes:
        takes_streams: whether the model computes with both streams of a dual encoder. Others refuse one.
    """

    takes_streams = False

    def __init__(self, config: ModelConfig, vocab_size: int, *, unpad: str = "auto",
                 document_start: int | None = None) -> None:
        """
        Args:
            config: the architecture.
            vocab_size: entries of the vocabulary.
            unpad: "on" removes padding before the encoder; "off" keeps it, for static shapes; "auto" removes it on a
                CPU, where reading the lengths costs nothing, and keeps it on a GPU.
            document_start: id of the token that each document of a row begins with: attention and position numbers are
                then restricted to each document. None for rows of one document.

        Raises:
            UserError: the configuration names something unknown or not built.
        """
        super().__init__()
        self.config = config
        self.longest_row = config.longest_row  # which compiled code reads
        self.vocab_size = vocab_size
        self.document_start = document_start
        assert unpad in ("auto", "on", "off")
        self.unpad = unpad
        encoder = choose(ENCODERS, config.encoder, "--encoder")
        if problems := encoder.problems(config):
            raise UserError("; ".join(problems))
        if encoder.streams > 1 and not self.takes_streams:
            raise UserError(f"encoder '{config.encoder}' encodes pairs of texts, each with an encoder of its own: only "
                            "finetune/run_classifier_siamese.py trains it, and nothing pretrains it")
        single = replace(config.stream(0), decoder=None)
        require_memory(lambda layers: Backbone(layers, vocab_size), single, vocab_size)
        self.embedding = embedding_sum(config, config.embedding, vocab_size)
        self.encoder = encoder(config)
        if unpad == "on" and self.encoder.reads_padding:
            raise UserError(f"--unpad on: the encoder '{config.encoder}' reads a row from its end, padding included")
        if document_start is not None and not self.encoder.keeps_documents_apart:
            raise UserError(f"--document_attention: the encoder '{config.encoder}' cannot keep a row's documents apart")

    def encode(self, src: Tensor, seg: Tensor, stream: int = 0) -> Tensor:
        """src, seg (B, S) -> hidden states (B, S, H). Those at padding positions have no meaning.

        Args:
            stream: which encoder of a dual encoder computes them, 0 or 1.
        """
        layout = self._layout(src, seg)
        embedding, encoder = self.embedding.stream(stream), self.encoder.stream(stream)
        return layout.scatter(encoder(embedding(src, layout), layout))

    def encode_at(self, src: Tensor, seg: Tensor, positions: Tensor, stream: int = 0) -> Tensor:
        """The hidden states at some positions of each row, such as that of [CLS].

        The result equals that of `encode` at these positions. A transformer computes only these in its last layer.

        Args:
            src, seg: (B, S).
            positions: (B, P) int64, positions of real tokens in each row.
            stream: as `encode`.

        Returns:
            (B, P, H)
        """
        layout = self._layout(src, seg)
        queries = layout.queries(positions, torch.ones_like(positions, dtype=torch.bool))
        embedding, encoder = self.embedding.stream(stream), self.encoder.stream(stream)
        return queries.scatter(encoder(embedding(src, layout), layout, queries))

    def _layout(self, src: Tensor, seg: Tensor, packing: Packing | None = None) -> Layout:
        self._require_positions(src, seg, self.longest_row)
        starts = None if self.document_start is None else document_starts(src, self.document_start)
        if packing is not None and not self.encoder.reads_padding:
            return packed_layout(seg, packing.tokens, packing.predictions, packing.sequences, starts)
        if self._leaves_padding_out(seg) and not self.encoder.reads_padding:
            return unpadded_layout(seg, starts)
        return padded_layout(seg, starts)

    def _leaves_padding_out(self, seg: Tensor) -> bool:
        return self.unpad == "on" or (self.unpad == "auto" and not static_shapes(seg))

    def _require_positions(self, tokens: Tensor, seg: Tensor, longest: int) -> None:
        """See that the rows tokens, seg (B, S) are no longer than `longest`."""
        assert tokens.shape == seg.shape and tokens.dim() == 2
        if tokens.shape[1] > longest:
            raise UserError(f"a batch of length {tokens.shape[1]} exceeds max_seq_length {longest}")

    def num_parameters(self) -> int:
        """How many numbers are trained; a tied weight counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def initialise(self, deep_init: bool = False, initializer_range: float = INITIAL_STD) -> None:
        """Draw every parameter anew: weights N(0, 0.02), biases 0, norms 1 and 0.

        Args:
            deep_init: scale the layers' output projections by 1 / sqrt(2 * layers_num).
            initializer_range: standard deviation of the weights in place of 0.02.
        """
        for module in self.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        if initializer_range != INITIAL_STD:
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(initializer_range / INITIAL_STD)
        # 2 * layers_num outputs are added to the residual stream (attention and feed-forward of each layer); with this
        # factor the variance of their sum does not grow with the number of layers (Radford et al., 2019, GPT-2).
        if deep_init:
            for name, parameter in self.named_parameters():
                if name.endswith(RESIDUAL_OUTPUTS):
                    parameter.mul_(1.0 / math.sqrt(2 * self.config.layers_num))


def embedding_sum(config: ModelConfig, names: Sequence[str], vocab_size: int) -> EmbeddingSum:
    """The sum of the embeddings of these names.

    Raises:
        UserError: a name is unknown.
    """
    parts = {name: choose(EMBEDDINGS, name, "--embedding")(config, vocab_size) for name in names}
    return EmbeddingSum(parts, config)
