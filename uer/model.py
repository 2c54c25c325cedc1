"""Builds a model from its configuration. No other module connects backbone, decoder and targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from uer.backbone import Backbone, Packing, embedding_sum
from uer.config import ModelConfig
from uer.decoders import DECODERS, Decoder
from uer.embeddings import EmbeddingSum
from uer.embeddings.position import PositionEmbedding
from uer.encoders import ENCODERS
from uer.errors import UserError
from uer.layers.distillation import SoftTargets
from uer.layers.layout import Layout, padded_layout, unpadded_layout
from uer.layers.linear import INITIAL_STD
from uer.layers.pooling import ONE_TOKEN, pooled_position
from uer.layers.recompute import OFF
from uer.meta_device import require_memory
from uer.registry import choose
from uer.target_inputs import Labels, TargetInput, inputs_from_all, inputs_of
from uer.targets import TARGETS, Metric, Target

WORD_EMBEDDING = "embedding.word.embedding.weight"
TGT_WORD_EMBEDDING = "tgt_embedding.word.embedding.weight"


class Side(Protocol):
    """One sequence of a batch."""

    values: Tensor
    """(B, S) token ids."""
    seg: Tensor
    """(B, S) 0 on padding, 1 or 2 on tokens."""


class Batch(Protocol):
    """What the model reads of a batch (`uer.data.batch.Batch` is one)."""

    src: Side
    tgt: Side | None
    labels: Mapping[str, Labels]
    packing: Packing | None

    def counts(self) -> Mapping[str, Tensor]:
        """For each target, how many positions are predicted."""


@dataclass
class ModelOutput:
    """A loss to be minimised, 0-dim, and each target's metrics."""

    loss: Tensor
    metrics: dict[str, dict[str, Metric]]


class Model(Backbone):
    """A backbone with its pretraining targets, and with a decoder where the configuration has one.

    With a decoder, the targets that predict a token from those before it (lm) read its hidden states, and the others
    the encoder's.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, *, tgt_vocab_size: int | None = None, unpad: str = "auto",
                 document_start: int | None = None) -> None:
        """
        Args:
            config, vocab_size, unpad, document_start: as `Backbone`.
            tgt_vocab_size: entries of the target side's vocabulary; those of the source's when None.
        """
        if config.decoder:
            require_memory(lambda layers: Model(layers, vocab_size, tgt_vocab_size=tgt_vocab_size), config, vocab_size)
        super().__init__(config, vocab_size, unpad=unpad, document_start=document_start)
        if not config.target:
            raise UserError("--target: at least one is needed")
        kinds = {name: choose(TARGETS, name, "--target") for name in config.target}
        self.tgt_vocab_size = tgt_vocab_size or vocab_size
        self.tgt_embedding, self.decoder = self._target_side(config, kinds)
        self.target = nn.ModuleDict({
            name: kind(config, self.tgt_vocab_size if self.side(name, kind) == "tgt" else vocab_size)
            for name, kind in kinds.items()})
        self.tied: dict[str, str] = {}
        if config.share_embedding and config.decoder:
            self._tie(TGT_WORD_EMBEDDING, WORD_EMBEDDING, "share_embedding")
        if config.tie_weights:
            for name, target in self.target.items():
                if target.tied:
                    word = TGT_WORD_EMBEDDING if self.side(name, type(target)) == "tgt" else WORD_EMBEDDING
                    self._tie(f"target.{name}.{target.tied}", word, "tie_weights")
        self.register_load_state_dict_pre_hook(_fill_tied_weights)

    def _target_side(self, config: ModelConfig,
                     kinds: Mapping[str, type[Target]]) -> tuple[EmbeddingSum | None, Decoder | None]:
        """The target side's embedding and the decoder; None without a decoder."""
        if not config.decoder:
            return None, None
        kind = choose(DECODERS, config.decoder, "--decoder")
        problems = kind.problems(config)
        if not any(self.side(name, target) == "tgt" for name, target in kinds.items()):
            problems.append(f"--decoder {config.decoder}: --target {' '.join(kinds)} does not read it; a decoder "
                            "needs the target lm")
        if self.document_start is not None:
            problems.append("--document_attention: a decoder would attend to all documents of a row")
        if problems:
            raise UserError("; ".join(problems))
        return embedding_sum(config, config.tgt_embedding, self.tgt_vocab_size), kind(config)

    def side(self, name: str, kind: type[Target] | None = None) -> str:
        """Whose hidden states a target reads: "src", or "tgt" for those of the decoder."""
        needs = (kind or TARGETS[name]).needs
        return "tgt" if self.config.decoder and "earlier" in needs else "src"

    def _tie(self, name: str, source: str, setting: str) -> None:
        """Make the parameter `name` the one that `source` names.

        Raises:
            UserError: there is no such parameter, or it has another shape; the message names the `setting`.
        """
        parameters = dict(self.named_parameters(remove_duplicate=False))
        for each in (name, source):
            if each not in parameters:
                raise UserError(f"{setting}: the model has no {each}: the embedding 'word' is needed")
        ours, theirs = parameters[name].shape, parameters[source].shape
        if ours != theirs:
            raise UserError(f"{setting}: {name} has the shape {list(ours)}, {source} {list(theirs)}")
        module, _, attribute = name.rpartition(".")
        setattr(self.get_submodule(module), attribute, parameters[source])
        self.tied[name] = source

    def warnings(self) -> list[str]:
        """What would train, but teach nothing; a line each."""
        sees = self.encoder.sees(self.config)
        blind = [f"warning: --target {name}: --pooling first takes the hidden state of [CLS], which with this encoder "
                 "depends on no other token; choose --pooling last, mean or max"
                 for name, target in self.target.items() if target.pooling == "first" and sees == "earlier"]
        copies = [f"warning: --target {name}: the encoder '{self.config.encoder}' sees the tokens that are to be "
                  f"predicted, so it learns nothing but to copy them; choose {_encoders_that_see(target.needs)}"
                  for name, target in self.target.items()
                  if target.needs and sees not in target.needs and self.side(name) == "src"]
        return blind + copies

    def counts(self, batch: Batch) -> Tensor:
        """(targets,) float32 on the device: how many predictions each target's loss sums over."""
        found = batch.counts()
        return torch.stack([found[name] for name in self.target])

    def forward(self, batch: Batch, counts: Tensor | None = None,
                soft: Mapping[str, Sequence[SoftTargets]] | None = None) -> ModelOutput:
        """Compute the loss of a batch.

        Args:
            batch: what `uer.data.batch.Batch` describes, with labels for every target.
            counts: (targets,) what each target's loss sum is divided by; the batch's own numbers when None. A trainer
                passes those of the whole global batch.
            soft: a teacher's `soft_targets` for the same batch.

        Returns:
            The sum of the targets' mean losses, and each target's metrics.
        """
        inputs = self.target_inputs(batch)  # (K, H) and (K, ...) for each target
        counts = self.counts(batch) if counts is None else counts
        total, metrics = 0.0, {}
        for (name, target), count in zip(self.target.items(), counts):
            output = target(*inputs[name], soft[name] if soft and name in soft else None)
            total = total + output.loss / count.clamp(min=1)
            metrics[name] = output.metrics
        return ModelOutput(total, metrics)

    def target_inputs(self, batch: Batch) -> dict[str, TargetInput]:
        """The hidden states and labels of each target, from one pass of the encoder and one of the decoder.

        The encoder, or the decoder, is asked for the union of all positions that its targets want, target after target:
        mlm at positions [2, 5] and sp at [0] of each row are one request [2, 5, 0], of which each gets its part back.
        """
        asked: dict[str, dict[str, Labels]] = {"src": {}, "tgt": {}}
        for name in self.target:
            asked[self.side(name)][name] = self._at_pooled_position(name, batch)
        pooled = {name: target.pooling for name, target in self.target.items()
                  if target.pooling and target.pooling not in ONE_TOKEN}
        require_sides(self, {name: labels.side for name, labels in batch.labels.items()})
        layout = self._layout(batch.src.values, batch.src.seg, None if self.decoder else batch.packing)
        embedded = self.embedding(batch.src.values, layout)  # (N, E): N tokens, those of `layout`
        if self.decoder is None:
            return inputs_of(lambda queries: self.encoder(embedded, layout, queries), layout, asked["src"], pooled)
        memory = self.encoder(embedded, layout)  # (N, H)
        return {**(inputs_from_all(memory, layout, asked["src"], pooled) if asked["src"] else {}),
                **self._decoded(batch.tgt, memory, layout, asked["tgt"])}

    def _decoded(self, tgt: Side, memory: Tensor, memory_layout: Layout,
                 asked: Mapping[str, Labels]) -> dict[str, TargetInput]:
        """The inputs of the targets that read the decoder, with the encoder's output (N, H)."""
        self._require_positions(tgt.values, tgt.seg, self.config.longest_tgt_row)
        layout = (unpadded_layout if self._leaves_padding_out(tgt.seg) else padded_layout)(tgt.seg)
        embedded = self.tgt_embedding(tgt.values, layout)
        return inputs_of(lambda queries: self.decoder(embedded, layout, memory, memory_layout, queries), layout, asked)

    def _at_pooled_position(self, name: str, batch: Batch) -> Labels:
        """A target's labels, at the position that its pooling takes the row's vector from."""
        labels, how = batch.labels[name], self.target[name].pooling
        return replace(labels, positions=pooled_position(batch.src.seg > 0, how)) if how == "last" else labels

    @property
    def perplexities(self) -> tuple[str, ...]:
        """The targets whose loss has a perplexity."""
        return tuple(name for name, target in self.target.items() if target.perplexity)

    def soft_targets(self, batch: Batch, temperature: float, alpha: float) -> dict[str, list[SoftTargets]]:
        """This model's predictions for the batch as a teacher: the argument `soft` of a student's `forward`."""
        soft = {name: self.target[name].soft_targets(inputs.hidden, temperature, alpha)
                for name, inputs in self.target_inputs(batch).items()}
        return {name: targets for name, targets in soft.items() if targets}


def require_sides(model: Model, sides: Mapping[str, str]) -> None:
    """See that the labels of each target are on the side that it reads.

    Args:
        sides: "src" or "tgt" for each target that the dataset has labels for.

    Raises:
        UserError: they are not.
    """
    for name in model.target:
        if sides[name] == "tgt" and model.side(name) == "src":
            raise UserError(f"--target {name}: the dataset's labels are on the target side, which needs a decoder: "
                            f"choose --decoder {next(iter(DECODERS))}")
        if sides[name] == "src" and model.side(name) == "tgt":
            raise UserError(f"--decoder {model.config.decoder}: the dataset has no target side; choose a model without "
                            "a decoder, or make the dataset with another --data_processor")


def _encoders_that_see(needed: Sequence[str]) -> str:
    """The flags with which an encoder sees one of `needed` (`Encoder.sees`), as text for a message."""
    names = [name for name, encoder in ENCODERS.items() if encoder.sees(ModelConfig()) in needed]
    causal = ["--mask causal"] if "earlier" in needed else []
    return " or ".join([*causal, f"--encoder {', '.join(names)}"])


def build_model(config: ModelConfig, vocab_size: int, *, tgt_vocab_size: int | None = None, unpad: str = "auto",
                document_start: int | None = None, activation_checkpointing: str = OFF,
                deep_init: bool = False, initializer_range: float = INITIAL_STD) -> Model:
    """A model with random weights, drawn from torch's default generator.

    Args:
        config: the architecture.
        vocab_size: entries of the vocabulary.
        tgt_vocab_size: see `Model`.
        unpad, document_start: see `Backbone`.
        activation_checkpointing: "off", "selective" or "full": see `uer.layers.recompute.run`.
        deep_init, initializer_range: see `Backbone.initialise`.

    Raises:
        UserError: the configuration names something unknown or not built.
    """
    model = Model(config, vocab_size, tgt_vocab_size=tgt_vocab_size, unpad=unpad, document_start=document_start)
    for stack in filter(None, (model.encoder, model.decoder)):
        stack.checkpoint_activations(activation_checkpointing)
    if deep_init or initializer_range != INITIAL_STD:
        model.initialise(deep_init, initializer_range)
    return model


def start_sinusoidal(model: Model, root_mean_square: float) -> None:
    """Let the learned position embeddings of all sides start as sines and cosines.

    Raises:
        UserError: the model has none.
    """
    found = [module for module in model.modules() if isinstance(module, PositionEmbedding)]
    if not found:
        raise UserError("--position_init sinusoidal: the model has no learned position embeddings (--embedding pos)")
    for module in found:
        module.start_sinusoidal(root_mean_square)


def _fill_tied_weights(model: Model, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """A hook before loading: a checkpoint may leave out a tied weight; if it has both weights, they must be equal."""
    for name, source in model.tied.items():
        name, source = prefix + name, prefix + source
        if name not in state_dict and source in state_dict:
            state_dict[name] = state_dict[source]
        elif name in state_dict and source in state_dict and not torch.equal(state_dict[name], state_dict[source]):
            setting = "share_embedding" if name == TGT_WORD_EMBEDDING else "tie_weights"
            raise UserError(f"the weights {name} and {source} differ, but {setting} makes them one")
