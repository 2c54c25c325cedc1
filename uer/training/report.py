"""What a person sees of a run: report lines as UER-py's, a progress bar on a terminal, JSON lines, TensorBoard.

    | 100/1000 steps| 9512.33 tokens/s| loss    7.01| acc: 0.046| lr 1.00e-04| ... | 0:01:12 left
"""

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from uer.config import LogConfig
from uer.errors import UserError
from uer.files import prepare_file
from uer.flops import GPUS, known_gpu
from uer.runtime.parallel import World

logger = logging.getLogger("uer")
LEVELS = {"ERROR": logging.ERROR, "INFO": logging.INFO, "DEBUG": logging.DEBUG, "NOTSET": logging.NOTSET}


METRIC = "metric "  # how the keys of collected metrics begin


class Sums:
    """Sums since the last report, on the device and in place, so that adding to them waits for nothing.

    `loss` is already that of the global batch; metrics are this rank's until `collect`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.updates = torch.zeros((), device=device)
        self.loss = torch.zeros((), device=device)
        self.norm = torch.zeros((), device=device)
        self.metrics: dict[str, Tensor] = {}
        """"target/name" -> (2,) numerator and denominator"""

    def add_metrics(self, metrics: Mapping[str, Mapping[str, Sequence[Tensor]]]) -> None:
        """Add a micro-batch's metrics: target -> name -> (numerator, denominator)."""
        for target, named in metrics.items():
            for name, pair in named.items():
                key = f"{target}/{name}"
                if key not in self.metrics:
                    self.metrics[key] = torch.zeros(2, device=self.device)
                self.metrics[key] += torch.stack([part.detach().float() for part in pair])

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
        """The sums over all ranks, as a flat dictionary; every rank has to ask."""
        metrics = {METRIC + key: world.sum_(pair.clone()) for key, pair in sorted(self.metrics.items())}
        return {"updates": self.updates.clone(), "loss": self.loss.clone(), "norm": self.norm.clone(), **metrics}

    def load(self, collected: dict[str, Tensor], world: World) -> None:
        """Go on from `collect`'s result, which rank 0 takes over for all.

        States of earlier versions have metrics without a target's name: these are left out of the next report.
        """
        for name in ("updates", "loss", "norm"):
            getattr(self, name).copy_(collected[name])
        owned = 1.0 if world.is_main else 0.0
        self.metrics = {name.removeprefix(METRIC): pair.to(self.device) * owned
                        for name, pair in collected.items() if name.startswith(METRIC) and "/" in name}


def metric_columns(collected: Mapping[str, Tensor]) -> dict[str, float]:
    """Collected sums as the columns of a report: with one target "loss" and "acc", with several "loss_mlm", "loss_sp",
    "acc_mlm" and "acc_sp", in this order, as UER-py has them."""
    ratios = {tuple(key.removeprefix(METRIC).split("/")): float(pair[0]) / max(1.0, float(pair[1]))
              for key, pair in collected.items() if key.startswith(METRIC)}
    targets, names = (list(dict.fromkeys(parts)) for parts in zip(*ratios)) if ratios else ([], [])
    ordered = sorted(names, key=lambda name: (not name.startswith("loss"), names.index(name)))
    return {f"{name}_{target}" if len(targets) > 1 else name: ratios[target, name]
            for name in ordered for target in targets if (target, name) in ratios}


def averages(collected: dict[str, Tensor]) -> dict[str, float]:
    """The columns of a report line: mean loss and gradient norm of the updates, and the targets' metrics."""
    updates = max(1.0, float(collected["updates"]))
    total = {"loss": float(collected["loss"]) / updates}
    return {**metric_columns(collected), **total, "grad_norm": float(collected["norm"]) / updates}


@dataclass
class Clock:
    """Throughput since the last report; waiting in evaluation and for checkpoints counts as time, as it is."""

    started: float = field(default_factory=time.perf_counter)
    last: float = field(default_factory=time.perf_counter)
    token_slots: int = 0
    updates: int = 0

    def lap(self) -> tuple[float, int, int]:
        """(seconds, token slots, updates) since the last lap; begins a new one."""
        now = time.perf_counter()
        result = (max(now - self.last, 1e-9), self.token_slots, self.updates)
        self.last, self.token_slots, self.updates = now, 0, 0
        return result


class Reporter:
    """Prints and writes on the main rank; silent on the others.

    Args:
        first_step: the update a resumed run begins with.
        flops_per_token: for the share of a known GPU's peak; 0 when unknown.
    """

    def __init__(self, config: LogConfig, world: World, total_steps: int, flops_per_token: float = 0.0) -> None:
        self.world = world
        self.total_steps = total_steps
        self.flops_per_token = flops_per_token
        self.bar: Any = None
        self._writer: MetricsWriter | None = None
        self.peak_flops = 0.0
        """Operations a second of all devices together; 0 when unknown."""
        if world.is_main:
            _set_up_logging(config)
            self._writer = MetricsWriter(config)

    def start(self, first_step: int) -> None:
        """Show the progress bar where there is a terminal."""
        if self.world.is_main and sys.stderr.isatty():
            self.bar = tqdm(total=self.total_steps, initial=first_step, unit=" steps", dynamic_ncols=True, leave=False)

    def advance(self) -> None:
        """One update is done."""
        if self.bar is not None:
            self.bar.update()

    def say(self, text: str) -> None:
        """A line to the terminal and the log file."""
        if self.world.is_main:
            logger.info(text)

    def report(self, step: int, figures: dict[str, float]) -> None:
        """A report line, and the same figures for machines."""
        if not self.world.is_main:
            return
        if self.peak_flops and self.flops_per_token:
            figures = {**figures, "mfu": figures["tokens_per_second"] * self.flops_per_token / self.peak_flops}
        logger.info(report_line(step, self.total_steps, figures))
        self.record("train", step, figures)

    def record(self, kind: str, step: int, figures: dict[str, Any]) -> None:
        """A line of `--metrics_path`, and scalars where asked for."""
        if self._writer is not None:
            self._writer.write(kind, step, figures, {"total_steps": self.total_steps})

    def close(self) -> None:
        """Flush everything."""
        if self.bar is not None:
            self.bar.close()
        if self._writer is not None:
            self._writer.close()


class MetricsWriter:
    """Figures for machines: JSON lines, TensorBoard and Weights & Biases, each where the settings ask for it.

    Raises:
        UserError: a file cannot be written, or a package is missing.
    """

    def __init__(self, config: LogConfig) -> None:
        self._path = config.metrics_path
        self._board = _open_board(config.tensorboard_dir)
        self._wandb = _open_wandb(config.wandb_project)
        self._file = _open_metrics(self._path)

    def write(self, kind: str, step: int, figures: Mapping[str, Any], facts: Mapping[str, Any], tag: str = "") -> None:
        """One record.

        Args:
            kind: "train", "eval" or "test".
            facts: what the JSON line says beside the figures; no scalars.
            tag: put before the scalars' names, where a command trains several models.
        """
        if self._file is not None:
            line = json.dumps({"kind": kind, "step": step, **facts, **figures}, ensure_ascii=False) + "\n"
            try:
                self._file.write(line.encode())
            except OSError as error:
                raise UserError(f"--metrics_path {self._path}: {error.strerror}") from None
        scalars = {f"{tag}{kind}/{name}": value for name, value in figures.items() if isinstance(value, (int, float))}
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({**scalars, f"{tag}step": step})

    def close(self) -> None:
        """Flush everything."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def report_line(step: int, total_steps: int, figures: dict[str, float]) -> str:
    """UER-py's line, then what it did not tell."""
    shown = {"tokens_per_second", "real_tokens_per_second", "loss", "learning_rate", "grad_norm", "epoch", "memory_gib",
             "seconds_left", "mfu", "skipped", "elapsed"}
    parts = [f"{step:8d}/{total_steps:8d} steps", f" {figures['tokens_per_second']:8.2f} tokens/s",
             f" loss {figures['loss']:7.2f}"]
    parts += [f" {name}: {value:3.3f}" for name, value in figures.items() if name not in shown]
    parts += [f" lr {figures['learning_rate']:.2e}", f" grad norm {figures['grad_norm']:.2f}",
              f" {figures['real_tokens_per_second']:.0f} real tokens/s", f" epoch {figures['epoch']:.2f}",
              f" {figures['memory_gib']:.2f} GiB"]
    if "mfu" in figures:
        parts.append(f" MFU {100 * figures['mfu']:.1f}%")
    if figures["skipped"]:
        parts.append(f" {figures['skipped']:.0f} updates skipped")
    parts.append(f" {duration(figures['seconds_left'])} left")
    return "| " + "|".join(parts)


def duration(seconds: float) -> str:
    """3725 -> 1:02:05"""
    whole = round(seconds)
    days, hours = divmod(whole // 3600, 24)
    clock = f"{hours}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{days} days {clock}" if days else clock


def memory_gib(device: torch.device) -> float:
    """Peak memory of this process: on its GPU, else the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30


def peak_flops(device: torch.device, precision: str) -> float:
    """Dense operations a second of a known GPU in fp32, bf16 or fp16; 0 for other devices."""
    known = known_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return GPUS[known].peak_flops(precision) if known else 0.0


class BarHandler(logging.Handler):
    """Prints lines without tearing the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


class LogFile(logging.FileHandler):
    """A log that cannot be written to, as on a full disk, ends the run with one line."""

    def handleError(self, record: logging.LogRecord) -> None:
        """What `emit` calls while it handles an exception."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise UserError(f"--log_path {self.baseFilename}: {error.strerror}") from None
        super().handleError(record)


def _set_up_logging(config: LogConfig) -> None:
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    line = logging.Formatter("[%(asctime)s %(levelname)s] %(message)s", "%Y-%m-%d %H:%M:%S")
    wanted: list[tuple[logging.Handler, str]] = [(BarHandler(), config.log_level)]
    if config.log_path:
        prepare_file(config.log_path, "--log_path")
        wanted.append((LogFile(config.log_path, encoding="utf-8"), config.log_file_level))
    for handler, level in wanted:
        handler.setFormatter(line)
        handler.setLevel(LEVELS[level])
        logger.addHandler(handler)


def _open_metrics(path: str | None) -> Any:
    if path is None:
        return None
    prepare_file(path, "--metrics_path")
    return open(path, "ab", buffering=0)  # a line is one write: a kill leaves no half of one in a buffer


def _open_board(folder: str | None) -> Any:
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter  # an optional dependency
    except ImportError:
        raise UserError("--tensorboard_dir needs the package tensorboard: pip install tensorboard") from None
    return SummaryWriter(folder)


def _open_wandb(project: str | None) -> Any:
    if project is None:
        return None
    try:
        import wandb  # an optional dependency
    except ImportError:
        raise UserError("--wandb_project needs the package wandb: pip install wandb") from None
    return wandb.init(project=project)
