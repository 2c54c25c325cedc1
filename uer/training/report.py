"""Reports of a run: lines as UER-py prints them, a progress bar on a terminal, JSON lines, TensorBoard.

    | 100/1000 steps| 9512.33 tokens/s| loss    7.01| acc: 0.046| lr 1.00e-04| ... | 0:01:12 left
"""

import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from uer.config import LogConfig
from uer.runtime.logs import set_up_logging
from uer.runtime.metrics_writer import MetricsWriter
from uer.runtime.parallel import World
from uer.terminal import progress_bar
from uer.text import duration

logger = logging.getLogger("uer")


METRIC = "metric "  # how the keys of collected metrics begin


class Sums:
    """Sums of losses and metrics since the last report. They are tensors on the device that are changed in place, so
    that the host need not wait for the device.

    `loss` is that of the global batch; `metrics` are this rank's, and `collect` adds them up over the ranks.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.updates = torch.zeros((), device=device)
        self.loss = torch.zeros((), device=device)
        self.norm = torch.zeros((), device=device)
        self.metrics: dict[str, Tensor] = {}
        """"target/name" -> (2,) numerator and denominator"""

    def add_metrics(self, metrics: Mapping[str, Mapping[str, Sequence[Tensor]]]) -> None:
        """Add a micro-batch's metrics: target -> name -> (numerator, denominator), unless they are not finite."""
        for target, named in metrics.items():
            for name, pair in named.items():
                key = f"{target}/{name}"
                if key not in self.metrics:
                    self.metrics[key] = torch.zeros(2, device=self.device)
                numbers = torch.stack([part.detach().float() for part in pair])
                self.metrics[key] += torch.where(numbers.isfinite().all(), numbers, 0.0)

    def add_update(self, loss: Tensor, norm: Tensor, finite: Tensor) -> None:
        """Add an update's loss and gradient norm, unless they are not finite."""
        self.updates += finite
        self.loss += torch.where(finite, loss, 0.0)
        self.norm += torch.where(finite, norm, 0.0)

    def reset(self) -> None:
        """Begin anew, in the same memory."""
        for tensor in (self.updates, self.loss, self.norm, *self.metrics.values()):
            tensor.zero_()

    def collect(self, world: World) -> dict[str, Tensor]:
        """The sums over all ranks, as a flat dictionary; a collective operation, which every rank has to call."""
        reduced = {key: world.sum_(pair.clone()) for key, pair in sorted(self.metrics.items())}  # same on all ranks
        metrics = {METRIC + key: reduced[key] for key in self.metrics}
        return {"updates": self.updates.clone(), "loss": self.loss.clone(), "norm": self.norm.clone(), **metrics}

    def load(self, collected: dict[str, Tensor], world: World) -> None:
        """Continue from `collect`'s result. It is the sum over all ranks: rank 0 takes it, and the others begin with 0.

        Training states of earlier versions have metrics without a target's name, which are ignored.
        """
        for name in ("updates", "loss", "norm"):
            getattr(self, name).copy_(collected[name])
        owned = 1.0 if world.is_main else 0.0
        self.metrics = {name.removeprefix(METRIC): pair.to(self.device) * owned
                        for name, pair in collected.items() if name.startswith(METRIC) and "/" in name}


def metric_columns(collected: Mapping[str, Tensor]) -> dict[str, float]:
    """The columns of a report, from the sums that `collect` returns: each numerator divided by its denominator.

    They have UER-py's names and order: "loss" and "acc" with one target, "loss_mlm", "loss_sp", "acc_mlm" and "acc_sp"
    with several.

    >>> sums = {"mlm/loss": (6.0, 3.0), "mlm/acc": (1.0, 4.0), "sp/loss": (1.0, 2.0), "sp/acc": (2.0, 2.0)}
    >>> metric_columns({METRIC + name: torch.tensor(pair) for name, pair in sums.items()})
    {'loss_mlm': 2.0, 'loss_sp': 0.5, 'acc_mlm': 0.25, 'acc_sp': 1.0}
    """
    ratios = {tuple(key.removeprefix(METRIC).split("/")): float(pair[0]) / max(1.0, float(pair[1]))
              for key, pair in collected.items() if key.startswith(METRIC)}
    targets, names = (list(dict.fromkeys(parts)) for parts in zip(*ratios)) if ratios else ([], [])
    ordered = sorted(names, key=lambda name: (not name.startswith("loss"), names.index(name)))
    return {f"{name}_{target}" if len(targets) > 1 else name: ratios[target, name]
            for name in ordered for target in targets if (target, name) in ratios}


def averages(collected: dict[str, Tensor]) -> dict[str, float]:
    """The columns of a report line: mean loss and gradient norm of the updates, and the targets' metrics.

    The means are NaN where every update was skipped.
    """
    updates = float(collected["updates"]) or math.nan
    total = {"loss": float(collected["loss"]) / updates}
    return {**metric_columns(collected), **total, "grad_norm": float(collected["norm"]) / updates}


@dataclass
class Clock:
    """Measures throughput since the last report. Evaluation and waiting for checkpoints are included in the time."""

    last: float = field(default_factory=time.perf_counter)
    token_slots: int = 0
    updates: int = 0

    def seconds(self) -> float:
        """Seconds since the last `lap`."""
        return max(time.perf_counter() - self.last, 1e-9)

    def lap(self) -> tuple[float, int, int]:
        """(seconds, token slots, updates) since the last call."""
        seconds = self.seconds()
        result = (seconds, self.token_slots, self.updates)
        self.last, self.token_slots, self.updates = self.last + seconds, 0, 0
        return result


class Reporter:
    """Prints and writes the reports on rank 0; does nothing on the others.

    Args:
        config: where reports go.
        world: the ranks.
        total_steps: updates of the run.

    Attributes:
        flops_per_token: operations of training on a real token (`uer.planning.flops.flops_per_token` at the mean
            length of the rows), for MFU; 0 when unknown.
        peak_flops: operations a second of all devices together; 0 when unknown.
    """

    def __init__(self, config: LogConfig, world: World, total_steps: int) -> None:
        self.world = world
        self.total_steps = total_steps
        self.flops_per_token = self.peak_flops = 0.0
        self.bar: Any = None
        self._writer: MetricsWriter | None = None
        if world.is_main:
            set_up_logging(config)
            self._writer = MetricsWriter(config)

    def start(self, first_step: int) -> None:
        """Show the progress bar where there is a terminal."""
        if self.world.is_main and sys.stderr.isatty():
            self.bar = progress_bar(total=self.total_steps, initial=first_step, unit=" steps")

    def advance(self) -> None:
        """One update is done."""
        if self.bar is not None:
            self.bar.update()

    def say(self, text: str) -> None:
        """Print a line to the terminal and the log file."""
        if self.world.is_main:
            logger.info(text)

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """Print a report line, and record its metrics.

        Args:
            step: how many updates are done.
            metrics: by name, as `report_line` needs them; "mfu" is added here where the peak of the device is known:
                the operations for real tokens per second, divided by the peak. Padding earns nothing.
        """
        if not self.world.is_main:
            return
        if self.peak_flops and self.flops_per_token:
            metrics = {**metrics, "mfu": metrics["real_tokens_per_second"] * self.flops_per_token / self.peak_flops}
        logger.info(report_line(step, self.total_steps, metrics))
        self.record("train", step, metrics)

    def record(self, kind: str, step: int, metrics: dict[str, Any]) -> None:
        """Write metrics to --metrics_path, TensorBoard and Weights & Biases, where the settings name them.

        Args:
            kind: "train" or "eval".
            step: how many updates are done.
            metrics: by name.
        """
        if self._writer is not None:
            self._writer.write(kind, step, metrics, {"total_steps": self.total_steps,
                                                     "flops_per_token": self.flops_per_token})

    def close(self) -> None:
        """Flush everything."""
        if self.bar is not None:
            self.bar.close()
        if self._writer is not None:
            self._writer.close()


def report_line(step: int, total_steps: int, metrics: dict[str, float]) -> str:
    """The columns of UER-py's report line, then further ones. UER-py's `tokens/s` counts padding as tokens."""
    shown = {"tokens_per_second", "real_tokens_per_second", "loss", "learning_rate", "grad_norm", "epoch", "memory_gib",
             "seconds_left", "mfu", "skipped", "interval_seconds", "interval_real_tokens"}
    parts = [f"{step:8d}/{total_steps:8d} steps", f" {metrics['tokens_per_second']:8.2f} tokens/s",
             f" loss {metrics['loss']:7.2f}"]
    parts += [f" {name}: {value:3.3f}" for name, value in metrics.items() if name not in shown]
    parts += [f" lr {metrics['learning_rate']:.2e}", f" grad norm {metrics['grad_norm']:.2f}",
              f" {metrics['real_tokens_per_second']:.0f} real tokens/s", f" epoch {metrics['epoch']:.2f}",
              f" {metrics['memory_gib']:.2f} GiB"]
    if "mfu" in metrics:
        parts.append(f" MFU {100 * metrics['mfu']:.1f}%")
    if metrics["skipped"]:
        parts.append(f" {metrics['skipped']:.0f} updates skipped")
    parts.append(f" {duration(metrics['seconds_left'])} left")
    return "| " + "|".join(parts)
