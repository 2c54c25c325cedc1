"""Optimizers, their parameter groups, and learning-rate schedules."""

import torch

from uer.optim.adafactor import Adafactor
from uer.optim.adamw import AdamW
from uer.optim.groups import check_ownership, parameter_groups
from uer.optim.muon import Muon

OPTIMIZERS = {"adamw": AdamW, "adafactor": Adafactor, "muon": Muon}

__all__ = ["OPTIMIZERS", "Adafactor", "AdamW", "Muon", "build_optimizer", "check_ownership", "parameter_groups",
           "set_learning_rate"]


def build_optimizer(name: str, model: torch.nn.Module, learning_rate: float,
                    capturable: bool = False) -> torch.optim.Optimizer:
    """The optimizer `name` of a model's trainable parameters.

    Args:
        capturable: see `uer.optim.base`.
    """
    kind = OPTIMIZERS[name]
    groups = parameter_groups(model, matrices=getattr(kind, "matrices", False))
    return kind(groups, lr=learning_rate, capturable=capturable)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every parameter group. A tensor (`capturable`) is overwritten in place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate
