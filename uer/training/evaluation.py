"""Evaluation of held-out data while training."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from uer.runtime.parallel import World
from uer.runtime.precision import Precision
from uer.training.report import Sums


def evaluate(module: nn.Module, batches: Iterable[Any], world: World, precision: Precision) -> dict[str, float]:
    """Loss, metrics and perplexity, exact over all ranks: sums are added up before they are divided.

    Args:
        module: maps a batch to (loss, metrics), as `StepModule` does; it is put into evaluation mode meanwhile.
        batches: this rank's part of the held-out data. With sharded parameters, as many as on every other rank.
    """
    sums = Sums(world.device)
    module.eval()
    with torch.no_grad(), precision.autocast():
        for batch in batches:
            sums.add_metrics(module(batch)[1])
    module.train()
    figures = {name.removeprefix("metric "): float(pair[0]) / max(1.0, float(pair[1]))
               for name, pair in sums.collect(world).items() if name.startswith("metric ")}
    loss = sum(value for name, value in figures.items() if name == "loss" or name.endswith("_loss"))
    others = {name: value for name, value in figures.items() if name != "loss"}
    return {"loss": loss, **others, "perplexity": math.exp(min(loss, 700.0))}
