"""Optimizers, their parameter groups, and learning-rate schedules."""

import torch

from uer.config import OptimConfig
from uer.optim.adafactor import Adafactor
from uer.optim.adamw import AdamW
from uer.optim.groups import check_ownership, parameter_groups
from uer.optim.muon import Muon
from uer.optim.stable_adamw import StableAdamW

OPTIMIZERS = {"adamw": AdamW, "adafactor": Adafactor, "muon": Muon, "stableadamw": StableAdamW}

__all__ = ["OPTIMIZERS", "Adafactor", "AdamW", "Muon", "StableAdamW", "build_optimizer", "check_ownership",
           "parameter_groups", "set_learning_rate"]


def build_optimizer(optim: OptimConfig, model: torch.nn.Module, capturable: bool = False) -> torch.optim.Optimizer:
    """The optimizer of a model's trainable parameters.

    Args:
        capturable: see `uer.optim.base`.
    """
    kind = OPTIMIZERS[optim.optimizer]
    groups = parameter_groups(model, optim.weight_decay, matrices=getattr(kind, "matrices", False))
    moments = {"betas": (0.9, optim.adam_beta2)} if issubclass(kind, AdamW) else {}
    return kind(groups, lr=optim.learning_rate, capturable=capturable, **moments)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every parameter group. A tensor (`capturable`) is overwritten in place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate
