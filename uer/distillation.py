"""Distillation: a trained model (the teacher) helps to pretrain a smaller one (the student).

At each predicted position the student learns from the label and from the teacher's distribution over the vocabulary
(Turc et al., 2019, https://arxiv.org/abs/1908.08962).

    teacher = load_teacher(config, ("mlm",), vocab_size, longest=128, say=print)
    loss, metrics = DistillationStep(model, teacher)(batch, counts)

The teacher is not a submodule of the step's module: its weights are not trained, averaged over ranks, sharded, counted
or saved. It runs in evaluation mode, without gradients, in the precision of the run.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from uer import sections
from uer.checkpoint import files as checkpoint
from uer.config import DistillationConfig, ModelConfig
from uer.convert.open import load_uer_weights
from uer.errors import UserError
from uer.layers.distillation import SoftTargets
from uer.model import TGT_WORD_EMBEDDING, WORD_EMBEDDING, Model, build_model
from uer.planning.flops import teacher_bytes
from uer.registry import choose
from uer.sizes import check_widths
from uer.targets import TARGETS
from uer.targets.base import VocabularyTarget
from uer.training.update import Metrics, StepModule


class Teacher:
    """A frozen model. It is not an `nn.Module`, so that a module with a teacher does not register its weights.

    Attributes:
        model: in evaluation mode, without gradients.
        config: temperature and weight of the distillation loss.
        fingerprint: a hash of its architecture and weights.
    """

    def __init__(self, model: Model, config: DistillationConfig) -> None:
        self.model = model.eval().requires_grad_(False)
        self.config = config
        self.fingerprint = _fingerprint(model)

    def to(self, device: torch.device) -> "Teacher":
        """Move the weights to a device; returns self."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def soft_targets(self, batch: Any) -> dict[str, list[SoftTargets]]:
        """The teacher's distributions for the predictions of the batch, by target; see `Model.soft_targets`."""
        return self.model.soft_targets(batch, self.config.soft_temperature, self.config.soft_alpha)

    def bytes(self, token_slots: int, tgt_slots: int = 0) -> int:
        """Memory that it takes, for micro-batches of so many token slots of the source and target side."""
        tgt_vocab_size = self.model.tgt_vocab_size if self.model.decoder else None
        return teacher_bytes(self.model.config, self.model.vocab_size, token_slots, tgt_vocab_size, tgt_slots)

    def line(self, token_slots: int, tgt_slots: int = 0) -> str:
        """A line for the summary of the run: size and memory; arguments as `bytes`."""
        memory = self.bytes(token_slots, tgt_slots)
        return (f"teacher: {self.model.num_parameters():,} parameters, {self.config.teacher_model_path}, not trained; "
                f"soft_alpha {self.config.soft_alpha:g}, soft_temperature {self.config.soft_temperature:g}; "
                f"{memory / 2**30:.2f} GiB a process, included in what follows")


class DistillationStep(StepModule):
    """`StepModule` with a teacher.

    Raises:
        UserError: the settings smooth the labels, which the mixed objective does not.
    """

    def __init__(self, model: Model, teacher: Teacher) -> None:
        super().__init__(model)
        if any(isinstance(target, VocabularyTarget) and target.label_smoothing() for target in model.target.values()):
            raise UserError("--teacher_model_path: its distribution takes the position of label smoothing; "
                            "set label_smoothing to 0 in --config_path")
        self.teacher = teacher
        if self.reads_padding:  # predictions are compared in their order, which follows from the layout
            model.unpad = teacher.model.unpad = "off"

    @property
    def reads_padding(self) -> bool:
        """Whether the encoder of one of the two does, so that both compute the padding."""
        return self.model.encoder.reads_padding or self.teacher.model.encoder.reads_padding

    def forward(self, batch: Any, counts: Tensor | None = None) -> tuple[Tensor, Metrics]:
        """The loss of the labels, whose gradient is that of labels and teacher together, and the metrics."""
        output = self.model(batch, counts, self.teacher.soft_targets(batch))
        return output.loss, output.metrics


def load_teacher(config: DistillationConfig, targets: tuple[str, ...], vocab_size: int, longest: int,
                 say: Callable[[str], None], longest_tgt: int = 0, **building: Any) -> Teacher:
    """The teacher that the settings name; arguments and errors as `teacher_model`."""
    return Teacher(teacher_model(config, targets, vocab_size, longest, say, longest_tgt, **building), config)


def teacher_model(config: DistillationConfig, targets: tuple[str, ...], vocab_size: int, longest: int,
                  say: Callable[[str], None], longest_tgt: int = 0, **building: Any) -> Model:
    """Build the teacher's model and load its weights.

    Args:
        config: its two files, and the weight of its loss.
        targets: the student's targets; those that predict entries of the vocabulary are distilled.
        vocab_size: entries of this run's vocabulary.
        longest: maximum length of a row in tokens.
        say: called with a line for each tensor that is not used.
        longest_tgt: maximum length of a row on the target side; 0 where there is none.
        building: arguments of `build_model`; those that lay out a batch must be the student's.

    Raises:
        UserError: the files do not fit one another or this run; every key that does not fit is named.
    """
    path, config_path = config.teacher_model_path, config.teacher_config_path
    architecture = teacher_architecture(config_path, targets, longest, longest_tgt)
    state = load_uer_weights(path, say)
    check_widths(state, architecture, path, config_path, "--teacher_config_path")
    _require_entries(state, WORD_EMBEDDING, vocab_size, "", path)
    if architecture.decoder:
        _require_entries(state, TGT_WORD_EMBEDDING, building.get("tgt_vocab_size") or vocab_size,
                         " of the target side", path)
    model = build_model(architecture, vocab_size, **building)
    report = checkpoint.load_into(model, state, path)
    unfit = [*report.missing, *(f"{name} ({list(theirs)} in the file, {list(ours)} by its configuration)"
                                for name, theirs, ours in report.other_shape)]
    if unfit:
        raise UserError(f"--teacher_model_path {path}: does not fit --teacher_config_path {config_path}: missing or of "
                        f"another shape: {', '.join(unfit)}")
    say(f"loaded the teacher {path}" + ("" if report.left_over else ": every key fits"))
    for name in report.left_over:
        say(f"{path}: left over, not used: {name}")
    return model


def _require_rows(architecture: ModelConfig, longest: int, longest_tgt: int, config_path: str) -> None:
    """Check that the teacher can read the dataset's rows.

    Raises:
        UserError: it cannot.
    """
    if bool(architecture.decoder) != bool(longest_tgt):
        sides = ("no decoder, but the dataset has a target side" if longest_tgt else
                 "a decoder, but the dataset has no target side")
        raise UserError(f"--teacher_config_path {config_path}: the teacher has {sides}")
    for reach, tokens, side in ((architecture.longest_row, longest, ""),
                                (architecture.longest_tgt_row, longest_tgt, " on the target side")):
        if reach < tokens:
            raise UserError(f"--teacher_config_path {config_path}: max_seq_length is {reach}, but the dataset's rows "
                            f"have {tokens} tokens{side}")


def _require_entries(state: Mapping[str, Tensor], name: str, expected: int, side: str, path: str) -> None:
    """Check that the embedding of this name has a row for each entry of the run's vocabulary.

    Raises:
        UserError: it has more or fewer.
    """
    entries = len(state[name]) if name in state else expected
    if entries != expected:
        raise UserError(f"--teacher_model_path {path}: a vocabulary of {entries} entries{side}, but this run's has "
                        f"{expected}; teacher and student must share one")


def teacher_architecture(config_path: str, targets: tuple[str, ...], longest: int, longest_tgt: int) -> ModelConfig:
    """The settings of the teacher's JSON file, with those of the targets that are distilled; arguments as
    `load_teacher`.

    Raises:
        UserError: it is missing or wrong, teaches no target, or cannot read the dataset's rows.
    """
    distilled = tuple(name for name in targets if issubclass(choose(TARGETS, name, "--target"), VocabularyTarget))
    if not distilled:
        raise UserError(f"--teacher_model_path: a teacher teaches what predicts vocabulary entries, and --target "
                        f"{' '.join(targets)} does not")
    architecture = replace(sections.read_section(ModelConfig, config_path, "--teacher_config_path"), target=distilled)
    _require_rows(architecture, longest, longest_tgt, config_path)
    return architecture


def _fingerprint(model: Model) -> str:
    """Only settings that differ from their default are in it: a setting that is added later changes nothing."""
    usual = ModelConfig().values()
    told = sorted((name, value) for name, value in model.config.values().items() if usual.get(name) != value)
    digest = hashlib.sha256(repr(told).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()[:16]
