"""Optimizers, their parameter groups, and learning-rate schedules."""

import torch

from uer.optim.adafactor import Adafactor
from uer.optim.adamw import AdamW
from uer.optim.groups import check_ownership, parameter_groups

OPTIMIZERS = {"adamw": AdamW, "adafactor": Adafactor}

__all__ = ["OPTIMIZERS", "Adafactor", "AdamW", "check_ownership", "parameter_groups", "set_learning_rate"]


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every parameter group. A tensor (`capturable`) is overwritten in place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate
