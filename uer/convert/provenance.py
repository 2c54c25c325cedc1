"""Provenance: how a model was trained, as far as the files beside its checkpoint tell; for its model card.

`models/x.bin-1000` has its settings in `models/x.bin-1000.settings.json`; where that is absent (older checkpoints), in
the training state `models/x.bin.state-1000`, while that is kept. A second stage names the checkpoint that it started
from, whose settings may be there as well.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uer.checkpoint.settings import read_settings, settings_path
from uer.checkpoint.state import read_state
from uer.config import ModelConfig, model_values
from uer.errors import UserError
from uer.json_files import parse_json
from uer.sections import member_classes

STAGES = 4  # how far back the chain of stages is followed

# A setting's name in a training state, and what a model card calls it.
_LABELS = {
    "target": "Targets",
    "seq_length": "Sequence length",
    "total_steps": "Steps planned",
    "batch_size x accumulation_steps x world_size": "Sequences per step",
    "optimizer": "Optimizer",
    "learning_rate": "Peak learning rate",
    "scheduler": "Schedule",
    "warmup": "Share of steps that warm up",
    "dropout": "Dropout",
    "max_grad_norm": "Gradient norm clipped at",
    "whole_word_masking": "Whole-word masking",
    "span_masking": "Span masking",
    "mask_rate": "Fraction of the tokens predicted",
    "document_attention": "Attention inside documents",
    "precision": "Precision",
    "seed": "Seed",
    "pretrained_model_path": "Started from",
    "averaged": "Average of",
    "teacher": "Teacher's fingerprint",
    "soft_alpha": "Weight of the distillation loss",
    "soft_temperature": "Temperature of the distillation",
    "dataset": "Dataset fingerprint",
}

USUAL = {"mask_rate": 0.15}
"""Values that a model card does not mention, beside "auto"."""


@dataclass(frozen=True)
class Stage:
    """One training run.

    Attributes:
        checkpoint: the file's name.
        step: how many updates it had.
        settings: the run's, under UER's flag names.
    """

    checkpoint: str
    step: int
    settings: Mapping[str, Any]

    def rows(self) -> dict[str, str]:
        """Label -> value for a model card; what is off or unknown is left out."""
        rows = {"Checkpoint": self.checkpoint, "Steps": f"{self.step:,}"}
        for name, label in _LABELS.items():
            value = self.settings.get(name)
            if (value and value != USUAL.get(name, "auto")) or (name == "seed" and value == 0):
                rows[label] = Path(value).name if name == "pretrained_model_path" else _show(value)
        return rows

    def model(self) -> ModelConfig:
        """The architecture that was trained."""
        told = {name: tuple(value) if isinstance(value, list) else value
                for name, value in model_values(self.settings).items()}
        names, others = ({field.name for known in classes for field in dataclasses.fields(known)}
                         for classes in ([ModelConfig], member_classes(ModelConfig)))
        return ModelConfig(**{name: value for name, value in told.items() if name in names},
                           members={name: value for name, value in told.items() if name in others})


def record_names(checkpoint: str | os.PathLike) -> re.Pattern[str]:
    """What the files beside a checkpoint are called that tell how it was trained: its settings, its training state."""
    state = _state_path(Path(checkpoint))
    names = [settings_path(checkpoint).name, *([state.name] if state else [])]
    return re.compile("|".join(map(re.escape, names)))


def _state_path(checkpoint: Path) -> Path | None:
    """Where the training state of a checkpoint is, or was; None for a name that is no step's."""
    match = re.fullmatch(r"(.+)-(\d+)", checkpoint.name)
    return checkpoint.with_name(f"{match[1]}.state-{match[2]}") if match else None


def recorded_stages(checkpoint: str | os.PathLike) -> list[Stage]:
    """The runs that led to a checkpoint, newest first; empty where nothing beside it tells.

    Raises:
        UserError: there is a settings file or a state, but it is damaged.
    """
    stages: list[Stage] = []
    path: Path | None = Path(checkpoint)
    while path is not None and len(stages) < STAGES:
        stage = _stage(path)
        if stage is None:
            break
        stages.append(stage)
        before = stages[-1].settings.get("pretrained_model_path")
        path = Path(before) if before else None
    return stages


def recorded_vocabulary(checkpoint: str | os.PathLike) -> str | None:
    """The fingerprint of the vocabulary that a checkpoint was trained with; None where no settings file tells."""
    recorded = read_settings(checkpoint)
    return recorded["settings"].get("vocabulary") if recorded else None


def require_vocabulary(recorded: str | None, fingerprint: str, what: str, checkpoint: str | os.PathLike) -> None:
    """
    Args:
        recorded: the fingerprint that is recorded beside the checkpoint.
        fingerprint: that of the vocabulary which is to be used, `what` in the message.

    Raises:
        UserError: they differ.
    """
    if recorded and recorded != fingerprint:
        raise UserError(f"{what}: not the vocabulary that {Path(checkpoint).name} was trained with "
                        "(scripts/dynamic_vocab_adapter.py makes a checkpoint for another one)")


def _stage(path: Path) -> Stage | None:
    """What the settings file beside a checkpoint tells, or its training state where there is no such file."""
    recorded = read_settings(path)
    if recorded is not None:
        return Stage(path.name, recorded["step"], recorded["settings"])
    state_path = _state_path(path)
    if state_path is None or not state_path.is_file():
        return None
    state = read_state(state_path)
    return Stage(path.name, int(state["step"]), _settings(state, state_path))


def _settings(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    settings = parse_json(state["settings"], path, half_pairs=True) if isinstance(state["settings"], str) else None
    if not isinstance(settings, dict):
        raise UserError(f"{path}: a damaged training state: its settings are no JSON object")
    return settings


def _show(value: Any) -> str:
    if value is True:
        return "yes"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if type(value) is int and value > 9999 else str(value)
