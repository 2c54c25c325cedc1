"""The time of an update against the number of devices, by a small model.

    compute     micro-batches x kernel launches + operations / (peak x efficiency) + bytes / memory bandwidth
    update      launches + the optimizer's bytes / memory bandwidth
    all-reduce  a ring within each node, then between nodes; hidden behind the backward pass or not
    host        micro-batches x what Python does for each
    step        the longer of host and compute + update + exposed all-reduce

The constants are assumptions: they come from the kernels of compiled updates, counted and weighed without a GPU, for
updates that are captured as CUDA graphs and compute nothing for padding. Nothing of them was measured on a GPU.
`--step_times` puts measured times in their place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uer.config import ModelConfig
from uer.encoders.transformer import is_local
from uer.errors import UserError
from uer.family.devices import Devices
from uer.family.sizes import Size
from uer.json_files import read_json
from uer.planning.flops import PREDICTED, flops_per_token, parameter_count
from uer.planning.hardware import GPUS, known_gpu

LAUNCH_SECONDS = 2.8e-6
"""Of a kernel that does almost nothing, in a CUDA graph."""
LAUNCHES = 44
LAUNCHES_PER_LAYER = 20
"""Such kernels in the forward and backward pass of a micro-batch."""
UPDATE_SECONDS = 0.2e-3
"""Of an update, for clipping, the optimizer's launches, metrics and the copy of the input."""
EFFICIENCY = {128: 0.16, 256: 0.31, 512: 0.50, 768: 0.53}
"""The share of the peak that matrix products reach, by hidden size."""
ATTENTION_EFFICIENCY = 0.08
"""The share of the peak that attention with a mask and dropout reaches."""
MEMORY_EFFICIENCY = 0.875
"""The share of its memory bandwidth that a GPU reaches."""
LAYER_BYTES = 155
"""Bytes that the other kernels read and write for a token, per layer and unit of the hidden size, in bf16."""
LOGIT_BYTES = 12
"""The same for a logit."""
OPTIMIZER_BYTES = 32
"""Bytes for a parameter in an update: gradient norm and AdamW."""
CPU_EFFICIENCY = {"fp32": 0.70, "bf16": 0.15}
"""MFU of a CPU by precision. Its peak is the speed of a matrix product: in fp32 the forward and backward passes of tiny
and mini reach 0.80 and 0.87 of it, without padding. With AMX a product is so fast in bf16 that the rest takes most of
the time: updates of tiny, mini and medium reach 0.11, 0.17 and 0.19 of 1.1 TFLOP/s (BENCHMARKS.md)."""
HOST_SECONDS = 0.2e-3
"""What the host does for a micro-batch: the order, one copy of the input, one launch of the graph."""

NODE = 8
"""GPUs of a node."""
LINK_EFFICIENCY = 0.8
"""The share of their bandwidth that all-reduce reaches on links and networks."""
NETWORK_BANDWIDTH = 50e9
"""Bytes per second and GPU between nodes: a network card of 400 Gbit/s for each GPU."""
LINK_LATENCY, NETWORK_LATENCY = 2e-6, 5e-6
"""Seconds of a hop."""
GRADIENT_BYTES = 4
ENTRY = {"size": str, "batch_size": int, "seq_length": int, "precision": str, "step_ms": (int, float), "device": str}
"""The keys of an entry of --step_times."""
FLAT_BELOW = 50_000_000
"""Parameters below which gradients are reduced in one flat buffer after the backward pass, inside a CUDA graph; larger
models reduce theirs in buckets during the backward pass (DistributedDataParallel)."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of an update on each device.

    Attributes:
        compute: forward and backward passes of all micro-batches.
        update: optimizer, clipping, metrics.
        all_reduce: of the gradients, over all devices.
        exposed: the part of it during which nothing is computed.
        host: what the host does, at the same time.
        launches: the part of compute and update in which the device waits for kernels to start.
    """

    compute: float
    update: float = 0.0
    all_reduce: float = 0.0
    exposed: float = 0.0
    host: float = 0.0
    launches: float = 0.0

    @property
    def seconds(self) -> float:
        """From one update to the next."""
        return max(self.compute + self.update + self.exposed, self.host)

    @property
    def busy(self) -> float:
        """The share of the time in which the device computes; in the rest another model could."""
        return (self.compute + self.update - self.launches) / self.seconds


@dataclass(frozen=True)
class Batch:
    """What one device computes in an update.

    Attributes:
        rows: of all its micro-batches.
        micro_batches: how many.
        length: mean number of tokens of a row, padding left out.
        mask_rate: the fraction of its tokens that are predicted.
        documents: mean number of tokens of the documents that attention stays inside of; 0 where it does not.
    """

    rows: float
    micro_batches: int
    length: float
    mask_rate: float = PREDICTED
    documents: float = 0.0

    @property
    def attended(self) -> float:
        """How many tokens a token attends to, where attention is not local."""
        return min(self.length, self.documents or self.length)

    @property
    def tokens(self) -> float:
        return self.rows * self.length


@dataclass(frozen=True)
class Measured:
    """A measured update of one size on one device, in one micro-batch of full rows."""

    size: str
    batch: Batch
    seconds: float

    def is_of(self, size: Size) -> bool:
        """Whether this is the size's: by its name `L-2_H-128`, as `2/128` or as `tiny`."""
        return self.size in (size.name, *size.label.split())


def step_time(size: Size, vocab_size: int, batch: Batch, ranks: int, devices: Devices, mfu: float | None = None,
              measured: Sequence[Measured] = ()) -> StepTime:
    """The time of an update.

    Args:
        size: the model.
        vocab_size: entries of the vocabulary.
        batch: of one device.
        ranks: devices that train the model together.
        devices: their kind.
        mfu: the share of the peak that the whole update reaches, in the place of the model.
        measured: updates on one device. The nearest one of the same size corrects the computed time by the ratio
            of its time to that which the model gives for it.
    """
    config = size.config
    flops = flops_per_token(config, vocab_size, batch.attended, mask_rate=batch.mask_rate) * batch.tokens
    if mfu or devices.kind == "cpu":
        reached = mfu or CPU_EFFICIENCY["bf16" if devices.precision == "bf16" else "fp32"]
        return StepTime(flops / (devices.peak_flops * reached))
    alone = _alone(config, vocab_size, batch, devices)
    own = [one for one in measured if one.is_of(size)]
    if own:
        nearest = min(own, key=lambda one: abs(math.log(one.batch.tokens * batch.micro_batches / batch.tokens)))
        ratio = nearest.seconds / _alone(config, vocab_size, nearest.batch, devices).seconds
        alone = StepTime(alone.compute * ratio, alone.update * ratio, launches=alone.launches * ratio)
    parameters = parameter_count(config, vocab_size)
    total = all_reduce_seconds(GRADIENT_BYTES * parameters, ranks, devices)
    exposed = total
    if parameters >= FLAT_BELOW:  # all but the word embedding's gradient, the last one, overlaps with the backward pass
        last = all_reduce_seconds(GRADIENT_BYTES * vocab_size * config.emb_size, ranks, devices)
        exposed = max(last, total - alone.compute * 2 / 3 / batch.micro_batches)
    return StepTime(alone.compute, alone.update, total, exposed, HOST_SECONDS * batch.micro_batches, alone.launches)


def forward_seconds(size: Size, vocab_size: int, batch: Batch, devices: Devices, mfu: float | None = None) -> float:
    """Seconds of the forward passes alone, as a teacher makes them: a third of a training's operations and launches."""
    return step_time(size, vocab_size, batch, 1, devices, mfu).compute / 3


def _alone(config: ModelConfig, vocab_size: int, batch: Batch, devices: Devices) -> StepTime:
    """An update on one GPU.

    tiny on an H200, 64 rows of 128: 84 launches of 2.8 us = 0.24 ms; 3.8 MFLOP of matrix products a token at 0.16 x 989
    TFLOP/s = 0.20 ms; 0.4 MFLOP of attention at 0.08 x 989 TFLOP/s = 0.04 ms; 78 kB a token at 0.875 x 4.8 TB/s = 0.15
    ms; with the update's 0.22 ms it is 0.85 ms.
    """
    flops = flops_per_token(config, vocab_size, batch.attended, mask_rate=batch.mask_rate)
    attention = min(flops / 2, 12 * _keys(config, batch.attended) * config.hidden_size)
    width = max((width for width in EFFICIENCY if width <= config.hidden_size), default=min(EFFICIENCY))
    moved = LAYER_BYTES * config.layers_num * config.hidden_size + LOGIT_BYTES * batch.mask_rate * vocab_size
    bandwidth = MEMORY_EFFICIENCY * _specification(devices).memory_bandwidth
    per_token = ((flops - attention) / (EFFICIENCY[width] * devices.peak_flops)
                 + attention / (ATTENTION_EFFICIENCY * devices.peak_flops)
                 + moved * (2 if devices.precision == "fp32" else 1) / bandwidth)
    launches = batch.micro_batches * LAUNCH_SECONDS * (LAUNCHES + LAUNCHES_PER_LAYER * config.layers_num)
    update = OPTIMIZER_BYTES * parameter_count(config, vocab_size) / bandwidth
    return StepTime(launches + batch.tokens * per_token, UPDATE_SECONDS + update, launches=launches + UPDATE_SECONDS)


def _keys(config: ModelConfig, length: float) -> float:
    """How many keys a query meets in all layers together: in a layer with local attention those of its own block and of
    the blocks beside it, where a block is as long as one side of the window.

        4 layers with a window of 128, every third of which is global, rows of 1,024: 2 x 1,024 + 2 x 3 x 64 = 2,432
    """
    local = sum(is_local(config, number) for number in range(config.layers_num))
    return (config.layers_num - local) * length + local * min(length, 1.5 * config.attention_window)


def _specification(devices: Devices) -> Any:
    """The data sheet; that of an H100 for a GPU that the table lacks."""
    return GPUS[known_gpu(devices.name) or "H100"]


def all_reduce_seconds(size: float, ranks: int, devices: Devices) -> float:
    """Seconds to add up `size` bytes over the ranks and give every rank the sum.

    Within a node a ring: each rank sends 2 (n - 1) / n of the bytes, in 2 (n - 1) hops. Between k nodes each rank does
    the same with its eighth, in 2 log2(k) hops, because NCCL takes trees there.

        100 MB, 8 H100:   2 x 7/8 x 100 MB / (0.8 x 450 GB/s) = 0.49 ms, 14 hops x 2 us = 0.03 ms
        100 MB, 16 H100:  the same, and 2 x 1/2 x 12.5 MB / (0.8 x 50 GB/s) = 0.31 ms, 2 hops x 5 us
    """
    inside = min(ranks, NODE)
    nodes = math.ceil(ranks / NODE)
    link = LINK_EFFICIENCY * _specification(devices).link_bandwidth
    seconds = 2 * (inside - 1) * (size / inside / link + LINK_LATENCY)
    if nodes > 1:
        network = LINK_EFFICIENCY * NETWORK_BANDWIDTH
        seconds += 2 * (nodes - 1) / nodes * size / NODE / network + 2 * math.ceil(math.log2(nodes)) * NETWORK_LATENCY
    return seconds


def read_step_times(path: str | Path, devices: Devices) -> list[Measured]:
    """The measured updates of a file, as scripts/check_gpu.py writes it, that fit the devices and their precision.

        [{"size": "tiny", "batch_size": 64, "seq_length": 128, "precision": "bf16", "step_ms": 0.85,
          "device": "NVIDIA H100 80GB HBM3"}]

    Raises:
        UserError: the file has another content, or nothing for these devices in this precision.
    """
    content = read_json(path, "--step_times")
    entries = content if isinstance(content, list) else [content]
    for number, entry in enumerate(entries, start=1):
        wrong = [name for name, kind in ENTRY.items() if not isinstance(entry, dict) or name not in entry
                 or not isinstance(entry[name], kind) or (kind is not str and not 0 < entry[name] < math.inf)]
        if wrong:
            raise UserError(f"--step_times {path}: entry {number} of the list needs {', '.join(ENTRY)}; wrong or "
                            f"missing: {', '.join(wrong)}")
    fitting = [entry for entry in entries if _fits(entry, devices)]
    if not fitting:
        raise UserError(f"--step_times {path}: nothing was measured on {devices.name} in {devices.precision}")
    return [Measured(entry["size"], Batch(entry["batch_size"], 1, entry["seq_length"]), entry["step_ms"] / 1000)
            for entry in fitting]


def _fits(entry: dict[str, Any], devices: Devices) -> bool:
    same = entry["device"] == devices.name or (
        known_gpu(entry["device"]) is not None and known_gpu(entry["device"]) == known_gpu(devices.name))
    return same and entry["precision"] == devices.precision
