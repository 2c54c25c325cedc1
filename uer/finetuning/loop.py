"""The one loop of all tasks: train an epoch, evaluate on dev, keep the best.

A run is a pure function of its data, its seed and the number of threads: the same command gives the same weights twice.
Ranks share each batch and sum their gradients, so several ranks give one rank's result to rounding (dropout draws
differ between ranks). So do the threads of a CPU, each of which computes a part of the batch.
"""

import contextlib
import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from uer.checkpoint.files import frozen_state, to_host, trained_state
from uer.config import OptimConfig
from uer.finetuning.adversarial import adversarial_gradients
from uer.finetuning.batches import Examples, collate, epoch_batches, evaluation_batches, shard
from uer.finetuning.config import AdversarialConfig
from uer.finetuning.progress import Progress
from uer.finetuning.ranks import gather_outputs, sum_gradients
from uer.finetuning.task import Task
from uer.layers.cpu.random_bits import masks_from
from uer.optim import build_optimizer, set_learning_rate
from uer.optim.schedules import SCHEDULES
from uer.runtime.failures import SharedError
from uer.runtime.parallel import World
from uer.runtime.precision import Precision
from uer.runtime.threads import Split, Workers, openmp_threads, run_beside
from uer.training.threads import Gradients, add_gradients, cut_rows
from uer.training.update import mixed_seed

logger = logging.getLogger("uer.finetuning")

# Rows of an evaluation batch; inference uses the same by default, so that its logits are the evaluation's to the bit.
EVALUATION_ROWS = 64


@dataclass(frozen=True)
class FitSettings:
    """Holds the settings of one training."""

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
    """Holds the result of a training: its best epoch on dev.

    Attributes:
        metrics: of the best epoch on dev.
        epoch: the best epoch, counted from 1; 0 before the first.
        history: mean training loss and metrics of every epoch.
        state: weights of the best epoch, on the CPU; with adapters those that were trained.
        outputs: its outputs for dev, one array for each example (see `Task.outputs`).
        frozen: the weights that were not trained, the model's own.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)
    outputs: list[np.ndarray] = field(default_factory=list)
    frozen: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Trial:
    """Holds one training, and the outputs and metrics of its best epoch on the test file."""

    settings: FitSettings
    fit: Fit
    test_outputs: list[np.ndarray] | None = None
    test_metrics: dict[str, float] | None = None

    @property
    def score(self) -> float:
        """The metric on dev by which trials are compared."""
        return self.fit.metrics[self.settings.save_best_by]


class Kept(Protocol):
    """Saves a training after each epoch, and restores it (`uer.finetuning.resume`)."""

    def restore(self, updater: "Updater", best: Fit) -> int:
        """Restore what was saved; returns the number of finished epochs."""
        ...

    def save(self, updater: "Updater", best: Fit, epoch: int) -> None:
        """Save the training as it is after `epoch`."""
        ...


class Diverged(SharedError):
    """Raised on every rank when the loss or the weights are not finite."""


def fit(updater: "Updater", train: Examples, dev: Examples, on_best: Callable[[Fit], None] | None = None,
        kept: Kept | None = None) -> Fit:
    """Train the updater's model; the result is its best epoch on `dev` by `settings.save_best_by`, the earliest of
    equals.

    Args:
        on_best: called after each epoch that is the best so far, to save it.
        kept: the training continues from what it has saved, and is saved after every epoch.

    Raises:
        Diverged: the loss or the weights are not finite.
    """
    settings, progress, best = updater.settings, updater.progress, Fit(frozen=frozen_state(updater.model))
    epoch = kept.restore(updater, best) if kept is not None else 0
    progress.begin(updater.step, updater.total_steps, epoch, settings.epochs_num, len(dev) / settings.batch_size)
    try:
        while epoch < settings.epochs_num and not _stopped_early(best, epoch, settings):
            epoch += 1
            _run_epoch(updater, train, dev, epoch, best)
            if best.epoch == epoch and on_best is not None:
                on_best(best)
            if kept is not None:
                kept.save(updater, best, epoch)
    finally:
        progress.close()
    return best


def _run_epoch(updater: "Updater", train: Examples, dev: Examples, epoch: int, best: Fit) -> None:
    """Train one epoch and evaluate it; `best` takes it over if it is the best so far."""
    model, task, world, settings = updater.model, updater.task, updater.world, updater.settings
    torch.manual_seed(dropout_seed(settings.seed, epoch, world.rank))
    model.train()
    with updater.progress.training(epoch), updater.threads_of_training():
        loss = updater.run_epoch(train, epoch)
    updater.check(loss, epoch)
    with updater.progress.evaluating(epoch, loss, len(dev)):
        outputs = predict(model, task, dev, updater.pad_id, world, updater.precision)
    if any(np.isnan(output).any() for output in outputs):
        raise updater.diverged(epoch)
    metrics = task.metrics(outputs, dev)
    entry = {"epoch": epoch, "train_loss": loss, **metrics}
    best.history.append(entry)
    updater.progress.epoch_done(entry)
    if not best.epoch or metrics[settings.save_best_by] > best.metrics[settings.save_best_by]:
        best.metrics, best.epoch, best.outputs = metrics, epoch, outputs
        best.state = to_host(trained_state(model))


def _stopped_early(best: Fit, epoch: int, settings: FitSettings) -> bool:
    if not settings.early_stop or not best.epoch or epoch - best.epoch < settings.early_stop:
        return False
    logger.info("Stopped early: no better score on dev in %d epochs", settings.early_stop)
    return True


def dropout_seed(seed: int, epoch: int, rank: int) -> int:
    """The seed of an epoch's dropout on a rank: each epoch has its own, so that a run can resume after any epoch."""
    return (seed * 1009 + rank + (epoch - 1) * 1_000_003) % 2**63


def predict(model: nn.Module, task: Task, examples: Examples, pad_id: int, world: World, precision: Precision,
            batch_size: int = EVALUATION_ROWS, advance: Callable[[int], None] | None = None) -> list[np.ndarray]:
    """The task's output for every example; each example is computed once, by one rank, and every rank gets all outputs.

    On a CPU several batches are computed beside one another.

    Args:
        batch_size: maximum rows (not examples) in a batch.
        advance: called after each batch with the number of its examples.

    Returns:
        One array for each example, in their order (see `Task.outputs`).
    """
    model.eval()
    rows = max(1, batch_size // examples.ways)
    batches = evaluation_batches(examples, rows)
    mine = batches[world.rank::world.world_size]

    @torch.inference_mode()
    def outputs_of(chosen: np.ndarray) -> list[np.ndarray]:
        batch = collate(examples, chosen, pad_id).to(world.device)
        with precision.autocast():
            predicted = model(batch)
        return task.outputs(predicted, batch)

    alone = world.device.type != "cpu" or world.world_size > 1 or model._compiled_call_impl is not None
    outputs = run_beside((partial(outputs_of, chosen) for chosen in mine), 1 if alone else torch.get_num_threads())
    found: dict[int, np.ndarray] = {}
    for chosen, part in zip(mine, outputs):
        found.update(zip(chosen.tolist(), part))
        if advance is not None:
            advance(len(chosen))
    return gather_outputs(world, found, len(examples))


class Updater:
    """Updates the model: it holds the optimizer, the schedule and the number of updates so far.

    Args:
        progress: shows the progress; nothing by default.
        split: how the threads of a CPU divide a batch, on one rank; None on a GPU and with several ranks.
        threads: how many of them may run at the same moment.
    """

    def __init__(self, model: nn.Module, task: Task, settings: FitSettings, total_steps: int, pad_id: int,
                 world: World, precision: Precision, progress: Progress | None = None, split: Split | None = None,
                 threads: int = 1) -> None:
        self.model, self.task, self.settings, self.world, self.pad_id = model, task, settings, world, pad_id
        self.precision, self.progress, optim = precision, progress or Progress(world), settings.optim
        self.optimizer = build_optimizer(optim, model)
        self.schedule = SCHEDULES[optim.scheduler](optim, total_steps)
        self.total_steps = total_steps
        self.step = 0
        self.threads = threads
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.divide(split)

    def divide(self, split: Split | None) -> None:
        """Compute with this split from now on: a training that goes on keeps the one with which it began."""
        self.split = split
        self.workers = Workers(split, self.threads) if split is not None and split.parts > 1 else None

    def threads_of_training(self) -> contextlib.AbstractContextManager[None]:
        """A context for updates, in which this thread computes with the OpenMP threads of the split."""
        return contextlib.nullcontext() if self.split is None else openmp_threads(self.split.openmp)

    def run_epoch(self, train: Examples, epoch: int) -> float:
        """All updates of an epoch; returns the mean loss. Losses stay on the device between report lines.

        Raises:
            Diverged: at a report line, the loss is not finite.
        """
        total, reported, recent = torch.zeros((), device=self.world.device), 0.0, 0
        batches = epoch_batches(train, self.settings.batch_size, self.settings.seed, epoch)
        for number, chosen in enumerate(batches, start=1):
            total += self.update(train, chosen)
            recent += 1
            self.progress.advance(int(train.tokens_of(chosen).sum()))
            printed = self.step % self.settings.report_steps == 0
            if printed or number == len(batches):
                now = self._over_ranks(total)
                if not math.isfinite(now):
                    raise self.diverged(epoch)
                self.progress.report(epoch, self.step, (now - reported) / recent, self.learning_rate, printed)
                reported, recent = now, 0
        return reported / len(batches)

    def check(self, loss: float, epoch: int) -> None:
        """
        Raises:
            Diverged: the epoch's loss or a weight is not finite.
        """
        finite = torch.stack([parameter.detach().isfinite().all() for parameter in self.model.parameters()]).all()
        if not math.isfinite(loss) or not finite:
            raise self.diverged(epoch)

    def diverged(self, epoch: int) -> Diverged:
        """The error for a training whose loss or weights are not finite."""
        return Diverged(f"stopped: the loss or the weights are not finite after step {self.step} (epoch {epoch}, seed "
                        f"{self.settings.seed}); such weights are never saved; a lower --learning_rate may help")

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last update."""
        return self.schedule(max(0, self.step - 1))

    def _over_ranks(self, total: Tensor) -> float:
        return float(self.world.sum_(total.clone()))

    def update(self, train: Examples, chosen: np.ndarray) -> Tensor:
        """One optimizer step on a batch, of which each rank computes a part.

        Args:
            train: all training examples.
            chosen: (batch_size,) int64, indices of the batch's examples on all ranks together.

        Returns:
            (), this rank's part of the batch's mean loss; the sum over ranks is the mean.
        """
        denominator, passes = self.task.denominator(train, chosen), itertools.count()

        def backward() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            if self.workers is not None:
                return self._gradients_of_parts(self.workers, train, chosen, denominator, next(passes))
            loss = torch.zeros((), device=self.world.device)
            mine = shard(chosen, self.world.rank, self.world.world_size)
            if len(mine) or self.task.whole_batch:
                loss = self._loss(train, mine, denominator) if len(mine) else self._no_loss(train, chosen)
                loss.backward()
            sum_gradients(self.world, self.model)
            return loss.detach()

        if self.settings.adversarial.use_adv:
            loss = adversarial_gradients(self.model, self.settings.adversarial, backward)
        else:
            loss = backward()
        set_learning_rate(self.optimizer, self.schedule(self.step))
        self.optimizer.step()
        self.step += 1
        return loss

    def _loss(self, train: Examples, chosen: np.ndarray, denominator: float) -> Tensor:
        """The summed loss of some examples, divided by `denominator`; 0-dim."""
        batch = collate(train, chosen, self.pad_id).to(self.world.device)
        with self.precision.autocast():
            predicted = self.model(batch)
        return self.task.loss(_to_float(predicted), batch) / denominator

    def _no_loss(self, train: Examples, chosen: np.ndarray) -> Tensor:
        """The loss of no example, 0, for a rank without any in a batch whose loss the ranks compute together."""
        batch = collate(train, chosen[:1], self.pad_id).to(self.world.device)
        with self.precision.autocast():
            predicted = self.model(batch)
        return self.task.loss(_to_float(predicted)[:0], batch)

    def _gradients_of_parts(self, workers: Workers, train: Examples, chosen: np.ndarray, denominator: float,
                            number: int) -> Tensor:
        """Write the gradients of a batch, made in parts by the workers; returns its loss, 0-dim.

        Args:
            number: counts the passes of an update; each has its own dropout.
        """
        def compute(part: int, examples: np.ndarray) -> tuple[Tensor, Gradients]:
            with masks_from(mixed_seed(self.settings.seed, self.step, number, part)):
                loss = self._loss(train, examples, denominator)
                return loss.detach(), torch.autograd.grad(loss, self.parameters, allow_unused=True)

        rows = cut_rows(torch.from_numpy(train.tokens_of(chosen)), workers.split.parts)
        results = workers.run([partial(compute, part, chosen[examples.numpy()]) for part, examples in enumerate(rows)])
        add_gradients(workers, self.parameters, [gradients for _, gradients in results])
        return torch.stack([loss for loss, _ in results]).sum()


def _to_float(predicted: Any) -> Any:
    return predicted.float() if isinstance(predicted, Tensor) else predicted
