"""Pretraining objectives by their `--target` names; `base` says what a target is."""

from uer.targets.base import LossOutput, Metric, Target
from uer.targets.bilm import BilmTarget
from uer.targets.cls import ClsTarget
from uer.targets.lm import LmTarget
from uer.targets.mlm import MlmTarget
from uer.targets.sp import SpTarget

TARGETS: dict[str, type[Target]] = {
    "mlm": MlmTarget,
    "sp": SpTarget,
    "lm": LmTarget,
    "bilm": BilmTarget,
    "cls": ClsTarget,
}

__all__ = ["TARGETS", "LossOutput", "Metric", "Target"]
