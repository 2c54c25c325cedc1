"""Provenance: how a model was trained, as far as the training state beside its checkpoint tells; for its model card.

`models/x.bin-1000` has its state in `models/x.bin.state-1000`, while that is kept. A second stage names the checkpoint
that it started from, whose state may be there as well.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uer.checkpoint.state import read_state
from uer.config import ModelConfig
from uer.errors import UserError
from uer.json_files import parse_json

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
    "document_attention": "Attention inside documents",
    "precision": "Precision",
    "seed": "Seed",
    "pretrained_model_path": "Started from",
    "teacher": "Teacher's fingerprint",
    "soft_alpha": "Weight of the distillation loss",
    "soft_temperature": "Temperature of the distillation",
    "dataset": "Dataset fingerprint",
}


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
            if (value and value != "auto") or (name == "seed" and value == 0):
                rows[label] = Path(value).name if name == "pretrained_model_path" else _show(value)
        return rows

    def model(self) -> ModelConfig:
        """The architecture that was trained."""
        names = {field.name for field in dataclasses.fields(ModelConfig)}
        return ModelConfig(**{name: tuple(value) if isinstance(value, list) else value
                              for name, value in self.settings.items() if name in names})


def state_name(checkpoint: str | os.PathLike) -> re.Pattern[str]:
    """What the training state beside a checkpoint is called; a pattern that matches nothing where it is no step's."""
    match = re.fullmatch(r"(.+)-(\d+)", Path(checkpoint).name)
    return re.compile(re.escape(f"{match[1]}.state-{match[2]}") if match else r"(?!)")


def recorded_stages(checkpoint: str | os.PathLike) -> list[Stage]:
    """The runs that led to a checkpoint, newest first; empty where no state stands beside it.

    Raises:
        UserError: there is a state, but it is damaged.
    """
    stages: list[Stage] = []
    path: Path | None = Path(checkpoint)
    while path is not None and len(stages) < STAGES:
        match = re.fullmatch(r"(.+)-(\d+)", path.name)
        beside = path.with_name(f"{match[1]}.state-{match[2]}") if match else None
        if beside is None or not beside.is_file():
            break
        state = read_state(beside)
        stages.append(Stage(path.name, int(state["step"]), _settings(state, beside)))
        before = stages[-1].settings.get("pretrained_model_path")
        path = Path(before) if before else None
    return stages


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
