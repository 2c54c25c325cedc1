"""Evaluation of held-out data while training."""

import math
from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from uer.runtime.parallel import World
from uer.runtime.precision import Precision
from uer.runtime.threads import run_beside
from uer.training.report import Sums, metric_columns
from uer.training.update import Metrics

LARGEST_EXPONENT = 700.0


def evaluate(module: nn.Module, batches: Iterable[Any], world: World, precision: Precision,
             perplexities: Collection[str] = (), threads: int = 1) -> dict[str, float]:
    """Loss, metrics and perplexities of all ranks' batches together: sums are added up before they are divided.

    Args:
        module: maps a batch to (loss, metrics), as `StepModule` does; it is in evaluation mode during the call.
        batches: this rank's part of the held-out data. With sharded parameters all ranks need equally many.
        perplexities: the targets whose loss has a perplexity.
        threads: of a CPU, which then compute several batches beside one another; 1 takes one after the other.

    Returns:
        "loss", the sum of the targets' losses; "acc", or "acc_mlm" and so on with several targets; "perplexity", or
        "perplexity_mlm".
    """
    def metrics_of(batch: Any) -> Metrics:
        with torch.no_grad(), precision.autocast():
            return module(batch)[1]

    sums = Sums(world.device)
    module.eval()
    for metrics in run_beside((partial(metrics_of, batch) for batch in batches), threads):
        sums.add_metrics(metrics)
    module.train()
    columns = metric_columns(sums.collect(world))
    losses = {name: value for name, value in columns.items() if name == "loss" or name.startswith("loss_")}
    targets = {key.partition("/")[0] for key in sums.metrics}
    exponents = {name.replace("loss", "perplexity", 1): math.exp(min(value, LARGEST_EXPONENT))
                 for name, value in losses.items()
                 if (len(targets) == 1 and perplexities) or name.removeprefix("loss_") in perplexities}
    return {**columns, "loss": sum(losses.values()), **exponents}
