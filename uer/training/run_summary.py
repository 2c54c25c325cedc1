"""The summary that is printed before the first update: sizes of model and data, costs, learning rates, devices."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from uer.runtime.threads import Split
from uer.text import amount


@dataclass(frozen=True)
class Plan:
    """The numbers of a run that the summary shows."""

    parameters: int
    instances: int
    """Samples of an epoch."""
    tokens: int
    """Tokens of an epoch, padding left out."""
    seq_length: int
    global_batch: int
    """Rows of an update, over all micro-batches and ranks."""
    total_steps: int
    flops_per_token: float
    """Forward and backward, of a real token; 0 where it is not counted."""
    activation_bytes: int
    """An estimate of what one micro-batch keeps for the backward pass."""
    learning_rate: Callable[[int], float]
    """Number of the update, counted from 0 -> its learning rate."""
    precision: str
    kernels: str
    devices: str
    start: str
    """The source of the initial weights: a checkpoint, or "drawn with seed 7"."""
    divided: int = 1
    """Among how many ranks weights, gradients and moments are divided."""
    peak_flops: float = 0.0
    """Operations a second of all devices in this precision; 0 when unknown."""

    def memory_bytes(self) -> int:
        """Bytes of the weights, their gradients and two moments in fp32, and of the activations of a micro-batch."""
        return 16 * self.parameters // self.divided + self.activation_bytes

    def lines(self) -> list[str]:
        """The summary as it is printed."""
        epochs = self.total_steps * self.global_batch / max(1, self.instances)
        steps = sorted({round(fraction * (self.total_steps - 1)) for fraction in (0.0, 0.05, 0.1, 0.5, 1.0)})
        learning_rates = ", ".join(f"{self.learning_rate(step):.2e} at {step + 1}" for step in steps)
        peak = f" at a peak of {self.peak_flops / 1e12:.4g} TFLOP/s" if self.peak_flops else ""
        rows = self.total_steps * self.global_batch
        flops = self.flops_per_token * rows * self.tokens / max(1, self.instances)
        compute = f"compute: {self.flops_per_token / 1e6:.1f} MFLOP a real token, {flops:.2e} FLOP in all"
        return [
            f"model: {self.parameters:,} parameters, {self.start}",
            f"data: {amount(self.instances, 'instance')}, {self.tokens:,} tokens an epoch; "
            f"{amount(self.total_steps, 'step')} of {self.global_batch} x {self.seq_length} make {epochs:.2f} epochs",
            f"memory: about {self.memory_bytes() / 2**30:.2f} GiB a process, beside Python and torch",
            *[compute] * bool(flops),
            f"learning rate: {learning_rates}",
            f"runs on: {self.devices}, {self.precision}{peak}; {self.kernels}",
        ]


def device_name(device: torch.device, split: Split | None = None) -> str:
    """A readable name: "NVIDIA H100 80GB HBM3", "CPU process of 4 threads", "CPU process of 2 threads, a part of each
    batch for each".

    Args:
        split: how a CPU's threads divide a batch, where they do.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if split is None:
        split = Split(1, torch.get_num_threads())
    parts = f", a part of each batch for each{f' {split.openmp}' if split.openmp > 1 else ''}"
    return f"CPU process of {split}{parts if split.parts > 1 else ''}"
