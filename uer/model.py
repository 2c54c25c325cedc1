"""A model from its configuration: embedding, encoder, target. The only place where they are wired together."""

import math
import os
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from uer.config import ModelConfig
from uer.embeddings import EMBEDDINGS, EmbeddingSum
from uer.embeddings import PLANNED as PLANNED_EMBEDDINGS
from uer.encoders import ENCODERS
from uer.encoders import PLANNED as PLANNED_ENCODERS
from uer.errors import UserError
from uer.flops import parameter_count
from uer.layers.distillation import SoftTargets
from uer.layers.layout import Layout, Queries, document_starts, padded_layout, static_shapes, unpadded_layout
from uer.registry import choose
from uer.targets import PLANNED as PLANNED_TARGETS
from uer.targets import TARGETS, LossOutput

# Scaled down by `deep_init`: what a layer adds to the residual stream.
RESIDUAL_OUTPUTS = ("self_attn.final_linear.weight", "feed_forward.linear_2.weight")


class Batch(Protocol):
    """What the model reads of a batch (`uer.data.batch.Batch` is one)."""

    src: Tensor
    seg: Tensor
    targets: dict[str, Tensor]


class Backbone(nn.Module):
    """Embedding and encoder: tokens to hidden states. Fine-tuning heads build on it."""

    def __init__(self, config: ModelConfig, vocab_size: int, *, unpad: str = "auto",
                 document_start: int | None = None) -> None:
        """
        Args:
            config: the architecture.
            vocab_size: entries of the vocabulary.
            unpad: "on" computes nothing for padding; "off" keeps static shapes; "auto" leaves padding out on a CPU,
                where it is free to look at the batch, and keeps it on a GPU.
            document_start: the token that each document begins with, where rows have several: attention and positions
                then stay inside a document, as if each were a row of its own.

        Raises:
            UserError: the configuration names something unknown or not built.
        """
        super().__init__()
        _require_memory(config, vocab_size)
        self.config = config
        self.vocab_size = vocab_size
        self.document_start = document_start
        assert unpad in ("auto", "on", "off")
        self.unpad = unpad
        self.embedding = _embedding(config, vocab_size)
        self.encoder = choose(ENCODERS, config.encoder, "--encoder", PLANNED_ENCODERS)(config)
        if unpad == "on" and self.encoder.reads_padding:
            raise UserError(f"--unpad on: the encoder '{config.encoder}' reads a row from its end, padding included")
        if document_start is not None and not self.encoder.keeps_documents_apart:
            raise UserError(f"--document_attention: the encoder '{config.encoder}' cannot keep a row's documents apart")

    def encode(self, src: Tensor, seg: Tensor) -> Tensor:
        """src, seg (B, S) -> hidden states (B, S, H). What stands at padding positions has no meaning."""
        layout = self._layout(src, seg)
        return layout.scatter(self.encoder(self.embedding(src, layout), layout))

    def encode_at(self, src: Tensor, seg: Tensor, positions: Tensor) -> Tensor:
        """The hidden states at some positions of each row, such as that of [CLS].

        It is `encode` with most of its last layer left out, where the encoder allows it.

        Args:
            src, seg: (B, S).
            positions: (B, P) columns of real tokens in their rows.

        Returns:
            (B, P, H)
        """
        layout = self._layout(src, seg)
        queries = layout.queries(positions, torch.ones_like(positions, dtype=torch.bool))
        return queries.scatter(self.encoder(self.embedding(src, layout), layout, queries))

    def _layout(self, src: Tensor, seg: Tensor) -> Layout:
        assert src.shape == seg.shape and src.dim() == 2
        if src.shape[1] > self.config.max_seq_length:
            raise UserError(f"a batch of length {src.shape[1]} exceeds max_seq_length {self.config.max_seq_length}")
        unpad = self.unpad == "on" or (self.unpad == "auto" and not static_shapes(seg))
        starts = None if self.document_start is None else document_starts(src, self.document_start)
        if unpad and not self.encoder.reads_padding:
            return unpadded_layout(seg, starts)
        return padded_layout(seg, starts)

    def num_parameters(self) -> int:
        """How many numbers are trained; a tied weight counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def initialise(self, deep_init: bool = False) -> None:
        """Draw every parameter anew: weights N(0, 0.02), biases 0, norms 1 and 0.

        Args:
            deep_init: scale the layers' output projections by 1 / sqrt(2 * layers_num).
        """
        for module in self.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        if deep_init:
            for name, parameter in self.named_parameters():
                if name.endswith(RESIDUAL_OUTPUTS):
                    parameter.mul_(1.0 / math.sqrt(2 * self.config.layers_num))


class Model(Backbone):
    """A backbone with its pretraining targets."""

    def __init__(self, config: ModelConfig, vocab_size: int, *, unpad: str = "auto",
                 document_start: int | None = None) -> None:
        super().__init__(config, vocab_size, unpad=unpad, document_start=document_start)
        if not config.target:
            raise UserError("--target: at least one is needed")
        self.target = nn.ModuleDict({name: choose(TARGETS, name, "--target", PLANNED_TARGETS)(config, vocab_size)
                                     for name in config.target})
        self.tied: dict[str, str] = {}
        if config.tie_weights and "mlm" in self.target:
            self.target["mlm"].linear_2.weight = self.embedding.word.embedding.weight
            self.tied["target.mlm.linear_2.weight"] = "embedding.word.embedding.weight"
        self.register_load_state_dict_pre_hook(_fill_tied_weights)

    def counts(self, batch: Batch) -> Tensor:
        """(targets,) float32 on the device: how many predictions each target's loss sums over."""
        return torch.stack([target.count(batch.targets) for target in self.target.values()])

    def forward(self, batch: Batch, counts: Tensor | None = None,
                soft: Mapping[str, SoftTargets] | None = None) -> LossOutput:
        """
        Args:
            batch: src and seg (B, S), and what the targets ask for.
            counts: (targets,) what each target's loss sum is divided by; the batch's own numbers when None. A trainer
                passes those of the whole global batch.
            soft: a teacher's `soft_targets` for the same batch.

        Returns:
            The sum of the targets' losses, and their metrics; with several targets a metric's name begins with its
            target's.
        """
        states = self.states(batch)
        counts = self.counts(batch) if counts is None else counts
        total, metrics = 0.0, {}
        for (name, target), count in zip(self.target.items(), counts):
            lesson = (soft[name],) if soft and name in soft else ()
            output = target(*states[name], batch.targets, *lesson)
            total = total + output.loss / count.clamp(min=1)
            prefix = f"{name}_" if len(self.target) > 1 else ""
            metrics.update({prefix + metric: figure for metric, figure in output.metrics.items()})
        return LossOutput(total, metrics)

    def states(self, batch: Batch) -> dict[str, tuple[Tensor, Queries]]:
        """What each target works on: the last hidden states (K, H) of the tokens it wants, and where they lie."""
        layout = self._layout(batch.src, batch.seg)
        embedded = self.embedding(batch.src, layout)
        queries = {name: layout.queries(*target.wanted(batch.targets)) for name, target in self.target.items()}
        if len(queries) == 1:
            return {name: (self.encoder(embedded, layout, wanted), wanted) for name, wanted in queries.items()}
        hidden = self.encoder(embedded, layout)
        return {name: (hidden.index_select(0, wanted.index), wanted) for name, wanted in queries.items()}

    def soft_targets(self, batch: Batch, temperature: float, alpha: float) -> dict[str, SoftTargets]:
        """What this model, as a teacher, says of the batch's predictions: `soft` of a student's `forward`.

        The student must lay out the batch as this model does (`unpad`).
        """
        return {name: self.target[name].soft_targets(hidden, temperature, alpha)
                for name, (hidden, _) in self.states(batch).items()}


def build_model(config: ModelConfig, vocab_size: int, *, unpad: str = "auto",
                document_start: int | None = None, activation_checkpointing: bool = False,
                deep_init: bool = False) -> Model:
    """A freshly initialised model, drawn from torch's default generator.

    Args:
        config: the architecture.
        vocab_size: entries of the vocabulary.
        unpad, document_start: see `Backbone`.
        activation_checkpointing: recompute each layer in the backward pass instead of keeping its inner values.
        deep_init: see `Backbone.initialise`.

    Raises:
        UserError: the configuration names something unknown or not built.
    """
    model = Model(config, vocab_size, unpad=unpad, document_start=document_start)
    model.encoder.activation_checkpointing = activation_checkpointing
    if deep_init:
        model.initialise(deep_init)
    return model


def _require_memory(config: ModelConfig, vocab_size: int) -> None:
    """
    Raises:
        UserError: this machine has less memory than the weights alone need; filling it would take minutes.
    """
    count = parameter_count(config, vocab_size)
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * count > present:
        raise UserError(f"a model of {count:,} parameters (layers_num {config.layers_num}, hidden_size "
                        f"{config.hidden_size}, feedforward_size {config.feedforward_size}, max_seq_length "
                        f"{config.max_seq_length}, vocabulary {vocab_size:,}) needs {4 * count / 2**30:,.0f} GiB for "
                        f"its weights; this machine has {present / 2**30:,.0f} GiB")


def _embedding(config: ModelConfig, vocab_size: int) -> EmbeddingSum:
    parts = {name: choose(EMBEDDINGS, name, "--embedding", PLANNED_EMBEDDINGS)(config, vocab_size)
             for name in config.embedding}
    return EmbeddingSum(parts, config)


def _fill_tied_weights(model: Model, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """A checkpoint may leave out a tied weight; one that has both must have them equal."""
    for name, source in model.tied.items():
        name, source = prefix + name, prefix + source
        if name not in state_dict and source in state_dict:
            state_dict[name] = state_dict[source]
        elif name in state_dict and source in state_dict and not torch.equal(state_dict[name], state_dict[source]):
            raise UserError(f"the weights {name} and {source} differ, but tie_weights makes them one")
