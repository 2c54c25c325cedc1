"""What the sections of `check_gpu.py` share: a `Job`, and how they measure. Not a command."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _checks import SEQ_LENGTH
from _gpu_facts import Facts
from _random_run import RandomRows, open_trainer, synchronise

from uer.training.trainer import Trainer


@dataclass(frozen=True)
class Job:
    """What a section works with.

    Attributes:
        facts: records what is found.
        device: "cuda" or "cpu".
        quick: the least that shows that the section runs.
        folder: for temporary files.
    """

    facts: Facts
    device: str
    quick: bool
    folder: Path

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def rows(self) -> int:
        """Of an update."""
        return 4 if self.quick else 64

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def trainer(self, size: str, *flags: str, rows: int = 0, fill: float = 1.0) -> Trainer:
        """pretrain.py's trainer with its own choices, but for `flags`."""
        rows = rows or self.rows
        written = RandomRows(20 * rows, SEQ_LENGTH, fill).write(self.new_folder(), size)
        return open_trainer(written, ["--device", self.device, "--batch_size", str(rows)], flags)

    def step_seconds(self, trainer: Trainer, seconds: float = 1.5) -> float:
        """Seconds of an update: the median of three measurements of about `seconds` each. Before that,
        in the warm-up, a graph is captured for every size of batch."""
        run(trainer, 2 if self.quick else 30)
        updates = 1 if self.quick else max(4, round(seconds / run(trainer, 4)))
        return statistics.median(run(trainer, updates) for _ in range(1 if self.quick else 3))


def run(trainer: Trainer, updates: int) -> float:
    """Seconds of an update, on average over some."""
    synchronise(trainer.world.device)
    begin = time.perf_counter()
    for _ in range(updates):
        trainer.run_update()
    synchronise(trainer.world.device)
    return (time.perf_counter() - begin) / updates


def kernel_ms(work: Callable[[], Any], device: str, repeats: int = 20) -> float:
    """Milliseconds of a piece of work on the device: the median of several."""
    found = []
    for number in range(repeats + 3):
        synchronise(torch.device(device))
        begin = time.perf_counter()
        work()
        synchronise(torch.device(device))
        if number >= 3:
            found.append(1000 * (time.perf_counter() - begin))
    return statistics.median(found)


def usable() -> bool:
    """Whether the GPU still computes in this process."""
    try:
        return float(torch.ones(3, device="cuda").sum()) == 3.0
    except RuntimeError:
        return False


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"
