"""What must hold wherever pretrain.py runs, for `check_gpu.py` and the tests marked `gpu`. Not a command.

Loss curves of runs that may differ in rounding alone, hidden waits for the device, the dropout that attention really
applies, a run that is killed and continued. Nothing is printed here.
"""

import contextlib
import json
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from _random_run import ROOT, RandomRows, open_trainer
from torch import Tensor
from torch.nn import functional as F

from uer.checkpoint.state import StateFolder
from uer.training.trainer import Trainer

SEQ_LENGTH = 128
SWITCHED_OFF = ["--compile", "off", "--cuda_graph", "off", "--unpad", "off"]
"""Flags with which every kernel is launched by itself and padding is computed."""
WAYS = {
    "bf16": ["--precision", "bf16"],
    "compiled": ["--precision", "bf16", "--compile", "on"],
    "graph": ["--precision", "bf16", "--cuda_graph", "on"],
    "compiled, graph": ["--precision", "bf16", "--compile", "on", "--cuda_graph", "on"],
    "compiled, graph, packed": ["--precision", "bf16", "--compile", "on", "--cuda_graph", "on", "--unpad", "auto"],
    "compiled, combo_kernels": ["--precision", "bf16", "--compile", "on", "--combo_kernels", "on"],
    "bf16 weights": ["--precision", "bf16", "--weights_dtype", "bf16", "--compile", "on", "--cuda_graph", "on"],
    "fp16": ["--precision", "fp16", "--compile", "on", "--cuda_graph", "on"],
    "packed": ["--precision", "fp32", "--unpad", "on"],
}
"""The name of a way to run -> its flags, which follow `SWITCHED_OFF`."""
TOLERANCE = {"fp16": 0.4, "packed": 0.002}
"""How far the loss may be from that of fp32 with everything off; 0.03 where no other number stands here. Of fp16, the
first updates may be left out until the loss scale is found, so that the others come later."""
SKIPPED_AT_MOST = 4  # updates that fp16 may leave out


def tolerance(way: str) -> float:
    return TOLERANCE.get(way, 0.03)


def losses(trainer: Trainer, updates: int) -> list[float]:
    """The loss of each of the next updates."""
    found, before = [], float(trainer.update.sums.loss)
    for _ in range(updates):
        trainer.run_update()
        total = float(trainer.update.sums.loss)
        found.append(total - before)
        before = total
    return found


class Curves:
    """Loss curves of one model on one stream of batches.

    Args:
        folder: for the dataset.
        flags: of pretrain.py, for all curves: `--device` and the like.
        batch_size: rows of an update.
        updates: length of a curve.
    """

    def __init__(self, folder: Path, flags: Sequence[str], batch_size: int, updates: int) -> None:
        written = RandomRows(20 * batch_size, SEQ_LENGTH, fill=0.6).write(folder, "tiny")
        self.flags = [*written, "--batch_size", str(batch_size), "--learning_rate", "3e-4", *flags]
        self.updates = updates

    def of(self, *flags: str) -> list[float]:
        """The losses with these flags, which follow `SWITCHED_OFF`."""
        return losses(self.trainer(*flags), self.updates)

    def trainer(self, *flags: str) -> Trainer:
        """The trainer with these flags, which follow `SWITCHED_OFF`."""
        return open_trainer(self.flags, SWITCHED_OFF, flags)


def worst_difference(left: Sequence[float], right: Sequence[float], skipping: bool = False) -> float:
    """The largest difference of two curves; infinite where one has a value that is not finite.

    Args:
        skipping: leave out up to `SKIPPED_AT_MOST` updates that the right one skipped: their loss is 0.
    """
    skipped = {number for number, loss in enumerate(right) if loss == 0.0} if skipping else set()
    differences = [abs(a - b) for number, (a, b) in enumerate(zip(left, right, strict=True)) if number not in skipped]
    fine = all(map(math.isfinite, differences)) and len(skipped) <= SKIPPED_AT_MOST
    return max(differences) if fine else math.inf


def furthest(left: Sequence[float], right: Sequence[float]) -> int:
    """The update at which two curves differ most."""
    return max(range(len(left)), key=lambda number: abs(left[number] - right[number]))


def hidden_waits(trainer: Trainer, updates: int) -> list[str]:
    """Where the host waits for the GPU during these updates: "file.py:12", each once."""
    with _sync_warnings() as caught:
        for _ in range(updates):
            trainer.run_update()
    return sorted({f"{Path(found.filename).name}:{found.lineno}" for found in caught
                   if "synchron" in str(found.message) and "prototype" not in str(found.message)})


@contextlib.contextmanager
def _sync_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """A context that collects torch's warnings about waiting."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            yield caught
    finally:
        torch.cuda.set_sync_debug_mode(before)


def dropped_fraction(device: str, dtype: torch.dtype, mask: Tensor | None, shape: Sequence[int],
                     dropout: float = 0.1) -> float:
    """The fraction of attention weights that scaled-dot-product attention really drops.

    All scores are equal and the values are the rows of an identity matrix, so an output element is 0 exactly where its
    weight was dropped: with 3 keys and the second dropped, [1/3, 0, 1/3] / (1 - dropout).

    Args:
        mask: added to the scores, or None.
        shape: (rows, heads, length, head_size); the first min(length, head_size) keys are looked at.
    """
    rows, heads, length, size = shape
    zeros = torch.zeros(rows, heads, length, size, device=device, dtype=dtype)
    values = torch.eye(length, size, device=device, dtype=dtype).expand(rows, heads, length, size).contiguous()
    output = F.scaled_dot_product_attention(zeros, zeros, values, mask, dropout)
    return float((output[..., :min(length, size)] == 0).float().mean())


def packed_attention(packed: Tensor, bounds: Tensor, longest: int, dropout: float) -> Tensor:
    """Attention of rows that lie end to end, by the flash kernel.

    Args:
        packed: (N, 3, heads, head_size) queries, keys and values in bf16 or fp16.
        bounds: (rows + 1,) int32, where rows begin, and N.

    Returns:
        (N, heads, head_size)
    """
    query, key, value = packed.unbind(1)
    return torch.ops.aten._flash_attention_forward(query, key, value, bounds, bounds, longest, longest, dropout, False,
                                                   False, scale=packed.shape[-1] ** -0.5)[0]


def pretrain(flags: Sequence[str], seconds: float, **options: object) -> subprocess.CompletedProcess:
    """Run pretrain.py; its output is in `stdout`, that of stderr too."""
    return subprocess.run([sys.executable, str(ROOT / "pretrain.py"), *flags], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False, **options)


def reports(path: Path) -> list[dict]:
    """The lines of --metrics_path."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def kill_and_resume(folder: Path, flags: Sequence[str], updates: int, seconds: float) -> tuple[float, float, str]:
    """The last loss of a run, that of one which is killed (SIGKILL) after its first training state and continued, and
    what the continued one printed.

    Raises:
        RuntimeError: a command fails.
    """
    every = max(1, updates // 4)

    def of(name: str) -> list[str]:
        return [*flags, "--total_steps", str(updates), "--report_steps", str(every), "--save_checkpoint_steps",
                str(every), "--output_model_path", str(folder / name), "--metrics_path", str(folder / f"{name}.jsonl"),
                "--log_level", "INFO"]

    ends = time.monotonic() + seconds
    whole = pretrain(of("whole"), seconds)
    process = subprocess.Popen([sys.executable, str(ROOT / "pretrain.py"), *of("killed")], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not StateFolder(folder / "killed", 1).steps() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    again = pretrain(of("killed"), max(1.0, ends - time.monotonic()))
    for done in (whole, again):
        if done.returncode:
            raise RuntimeError(f"pretrain.py ended with status {done.returncode}: {done.stdout[-2000:]}")
    first, second = (reports(folder / f"{name}.jsonl")[-1]["loss"] for name in ("whole", "killed"))
    return first, second, again.stdout

