"""Pretraining objectives by their `--target` names."""

from uer.targets.mlm import MlmTarget
from uer.targets.output import LossOutput

TARGETS = {"mlm": MlmTarget}
PLANNED = ("sp", "lm", "bilm", "cls")

__all__ = ["PLANNED", "TARGETS", "LossOutput"]
