"""The one loop of all tasks: train an epoch, evaluate on dev, keep the best.

A run is a pure function of its data and seed: the same command gives the same weights twice. Ranks share each batch and
sum their gradients, so several ranks give one rank's result to rounding (dropout draws differ between ranks).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uer.config import OptimConfig
from uer.finetuning.adversarial import adversarial_gradients
from uer.finetuning.batches import Examples, batches_in_epoch, collate, epoch_batches, evaluation_batches, shard
from uer.finetuning.config import AdversarialConfig
from uer.finetuning.ranks import gather_outputs, sum_gradients
from uer.finetuning.task import Task
from uer.optim import OPTIMIZERS, parameter_groups, set_learning_rate
from uer.optim.schedules import SCHEDULES
from uer.training.checkpoint import to_host
from uer.training.parallel import World
from uer.training.precision import Precision

logger = logging.getLogger("uer.finetuning")

# Rows of an evaluation batch; inference uses the same by default, so that its logits are the evaluation's to the bit.
EVALUATION_ROWS = 64


@dataclass(frozen=True)
class FitSettings:
    """How one model is trained."""

    batch_size: int = 32
    epochs_num: int = 3
    seed: int = 7
    report_steps: int = 100
    early_stop: int = 0
    save_best_by: str = "accuracy"
    optim: OptimConfig = field(default_factory=OptimConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)


@dataclass
class Fit:
    """What a training came to; `state` holds the weights of the best epoch, on the host."""

    metrics: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)


def fit(model: nn.Module, task: Task, train: Examples, dev: Examples, settings: FitSettings, pad_id: int,
        world: World, precision: Precision, on_best: Callable[[Fit], None] | None = None) -> Fit:
    """Train `model`; the result is its best epoch on `dev` by `settings.save_best_by`, the earliest of equals.

    Args:
        on_best: called after each epoch that is the best so far, to save it.
    """
    total_steps = settings.epochs_num * batches_in_epoch(train, settings.batch_size)
    updater = Updater(model, task, settings, total_steps, pad_id, world, precision)
    best = Fit()
    torch.manual_seed(settings.seed * 1009 + world.rank)
    for epoch in range(1, settings.epochs_num + 1):
        model.train()
        loss = updater.run_epoch(train, epoch)
        metrics = task.metrics(predict(model, task, dev, pad_id, world, precision), dev)
        best.history.append({"epoch": epoch, "train_loss": loss, **metrics})
        logger.info("Epoch %d of %d: dev %s", epoch, settings.epochs_num, describe(metrics))
        if not best.epoch or metrics[settings.save_best_by] > best.metrics[settings.save_best_by]:
            best.metrics, best.epoch, best.state = metrics, epoch, to_host(model.state_dict())
            if on_best is not None:
                on_best(best)
        elif settings.early_stop and epoch - best.epoch >= settings.early_stop:
            logger.info("Stopped early: no gain in %d epochs", settings.early_stop)
            break
    return best


@torch.inference_mode()
def predict(model: nn.Module, task: Task, examples: Examples, pad_id: int, world: World, precision: Precision,
            batch_size: int = EVALUATION_ROWS) -> list[np.ndarray]:
    """The task's output for every example, in order, on every rank; each example is computed once, by one rank."""
    model.eval()
    rows = max(1, batch_size // examples.ways)
    batches = evaluation_batches(examples, rows)
    mine: dict[int, np.ndarray] = {}
    for chosen in batches[world.rank::world.world_size]:
        batch = collate(examples, chosen, pad_id).to(world.device)
        with precision.autocast():
            predicted = model(batch)
        mine.update(zip(chosen.tolist(), task.outputs(predicted, batch)))
    return gather_outputs(world, mine, len(examples))


class Updater:
    """Model, optimizer and schedule: everything one update needs."""

    def __init__(self, model: nn.Module, task: Task, settings: FitSettings, total_steps: int, pad_id: int,
                 world: World, precision: Precision) -> None:
        self.model, self.task, self.settings, self.world, self.pad_id = model, task, settings, world, pad_id
        self.precision, optim = precision, settings.optim
        self.optimizer = OPTIMIZERS[optim.optimizer](parameter_groups(model), lr=optim.learning_rate)
        self.rate = SCHEDULES[optim.scheduler](optim, total_steps)
        self.total_steps = total_steps
        self.step = 0

    def run_epoch(self, train: Examples, epoch: int) -> float:
        """All updates of an epoch; returns the mean loss. Losses stay on the device between report lines."""
        total, reported, recent = torch.zeros((), device=self.world.device), 0.0, 0
        batches = epoch_batches(train, self.settings.batch_size, self.settings.seed, epoch)
        for chosen in batches:
            total += self.update(train, chosen)
            recent += 1
            if self.step % self.settings.report_steps == 0:
                now = self._over_ranks(total)
                logger.info("Epoch %d, step %d of %d, loss %.4f", epoch, self.step, self.total_steps,
                            (now - reported) / recent)
                reported, recent = now, 0
        return self._over_ranks(total) / len(batches)

    def _over_ranks(self, total: Tensor) -> float:
        return float(self.world.sum_(total.clone()))

    def update(self, train: Examples, chosen: np.ndarray) -> Tensor:
        """One optimizer step on the batch that all ranks share; returns this rank's part of its mean loss."""
        mine = shard(chosen, self.world.rank, self.world.world_size)
        batch = collate(train, mine, self.pad_id).to(self.world.device) if len(mine) else None
        denominator = self.task.denominator(train, chosen)

        def backward() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            loss = torch.zeros((), device=self.world.device)
            if batch is not None:
                with self.precision.autocast():
                    predicted = self.model(batch)
                loss = self.task.loss(_to_float(predicted), batch) / denominator
                loss.backward()
            sum_gradients(self.world, self.model)
            return loss.detach()

        if self.settings.adversarial.use_adv:
            loss = adversarial_gradients(self.model, self.settings.adversarial, backward)
        else:
            loss = backward()
        set_learning_rate(self.optimizer, self.settings.optim.learning_rate * self.rate(self.step))
        self.optimizer.step()
        self.step += 1
        return loss


def describe(metrics: dict[str, float]) -> str:
    """`accuracy 0.9137 (1097/1200), macro_f1 0.9136`"""
    words = []
    for name, value in metrics.items():
        if name in ("correct", "total", "predicted_labels"):
            continue
        counts = f" ({metrics['correct']}/{metrics['total']})" if name == "accuracy" and "correct" in metrics else ""
        words.append(f"{name} {value:.4f}{counts}")
    return ", ".join(words)


def _to_float(predicted: Any) -> Any:
    return predicted.float() if isinstance(predicted, Tensor) else predicted
