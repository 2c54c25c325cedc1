"""What a run is going to do, in a few lines before its first step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Plan:
    """The figures of a run."""

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
    """Of training; 0 where it is not counted."""
    activation_bytes: int
    """Estimate for one micro-batch."""
    rate: Callable[[int], float]
    precision: str
    kernels: str
    devices: str
    start: str
    """Where the weights come from."""
    peak_flops: float = 0.0
    """Operations a second of all devices in this precision; 0 when unknown."""

    def memory_bytes(self) -> int:
        """Weights, gradients and two moments in fp32, and what a micro-batch leaves for the backward pass."""
        return 16 * self.parameters + self.activation_bytes

    def lines(self) -> list[str]:
        """The plan as it is printed."""
        epochs = self.total_steps * self.global_batch / max(1, self.instances)
        points = sorted({round(share * (self.total_steps - 1)) for share in (0.0, 0.05, 0.1, 0.5, 1.0)})
        rates = ", ".join(f"{self.rate(step):.2e} at {step + 1}" for step in points)
        peak = f" at a peak of {self.peak_flops / 1e12:.4g} TFLOP/s" if self.peak_flops else ""
        memory = f"about {self.memory_bytes() / 2**30:.2f} GiB a process"
        flops = self.flops_per_token * self.total_steps * self.global_batch * self.seq_length
        counted = f"{self.flops_per_token / 1e6:.1f} MFLOP a token, {flops:.2e} FLOP in all; " if flops else ""
        return [
            f"model: {self.parameters:,} parameters, {self.start}",
            f"data: {self.instances:,} instances, {self.tokens:,} tokens an epoch; {self.total_steps:,} steps of "
            f"{self.global_batch} x {self.seq_length} make {epochs:.2f} epochs",
            f"compute: {counted}{memory}",
            f"learning rate: {rates}",
            f"runs on: {self.devices}, {self.precision}{peak}; {self.kernels}",
        ]


def device_name(device: torch.device) -> str:
    """As a person calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU process of {threads} thread{'s' if threads > 1 else ''}"
