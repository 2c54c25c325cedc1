"""Optimizers, the groups of parameters they own, and learning-rate schedules."""

import torch

from uer.optim.adafactor import Adafactor
from uer.optim.adamw import AdamW
from uer.optim.groups import check_ownership, parameter_groups

OPTIMIZERS = {"adamw": AdamW, "adafactor": Adafactor}

__all__ = ["OPTIMIZERS", "Adafactor", "AdamW", "check_ownership", "parameter_groups", "set_learning_rate"]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group this rate; one that lives in a tensor (`capturable`) is overwritten in place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
