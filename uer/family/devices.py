"""The devices that a plan reckons with: those at hand, or named ones."""

import os
import time
from dataclasses import dataclass, replace

import torch

from uer.errors import UserError
from uer.family.config import MachineConfig
from uer.family.nodes import Torchrun
from uer.flops import PEAK_FLOPS

# GiB of memory, by the names of PEAK_FLOPS; the smallest that is sold under a name.
MEMORY_GIB = {"H200": 141, "H100": 80, "A100": 40, "A800": 80, "H800": 80, "L40": 48, "RTX 4090": 24, "RTX 3090": 24,
              "A10": 24, "L4": 24, "V100": 16, "T4": 16}
NAMED_COUNT = 8
PROBES = {"cpu": (768, torch.float32), "cuda": (8192, torch.bfloat16)}
MEASURED = "its peak is what a matrix product reaches just now"


@dataclass(frozen=True)
class Devices:
    """Equal devices.

    Attributes:
        name: as a person calls them.
        kind: cuda or cpu.
        count: how many.
        peak_flops: operations a second of one of them; 0 when unknown.
        memory_bytes: of one of them; 0 when unknown.
        note: where the figures are from.
    """

    name: str
    kind: str
    count: int
    peak_flops: float
    memory_bytes: int
    note: str = ""


def find_devices(config: MachineConfig) -> Devices:
    """The devices of the plan.

    Raises:
        UserError: a name that is not known, or more GPUs than there are.
    """
    if config.device_name:
        return named_devices(config.device_name, config.device_count or NAMED_COUNT)
    count = torch.cuda.device_count() if config.device != "cpu" else 0
    if config.device == "cuda" and not count:
        raise UserError("--device cuda: torch sees no GPU on this machine")
    if not count:
        if config.device_count > 1:
            raise UserError(f"--device_count {config.device_count}: this machine has no GPU (--device_name plans for "
                            "another one)")
        return Devices(f"CPU of {os.cpu_count()} cores", "cpu", 1, measured_flops("cpu"), _host_memory(), MEASURED)
    if config.device_count > count:
        raise UserError(f"--device_count {config.device_count}: this machine has {count} GPUs")
    properties = torch.cuda.get_device_properties(0)
    peak = next((peak for part, peak in PEAK_FLOPS.items() if part in properties.name), 0.0)
    return Devices(properties.name, "cuda", config.device_count or count, peak or measured_flops("cuda"),
                   properties.total_memory, "" if peak else MEASURED)


def spread(devices: Devices, torchrun: Torchrun) -> Devices:
    """The devices of all machines: a GPU for each of torchrun's processes, or an equal part of a machine's CPU.

    Raises:
        UserError: there are fewer GPUs than processes on this machine.
    """
    count = torchrun.nodes * torchrun.processes
    if devices.kind == "cpu":
        return replace(devices, name=f"1/{torchrun.processes} of a {devices.name}" if torchrun.processes > 1
                       else devices.name, count=count, peak_flops=devices.peak_flops / torchrun.processes,
                       memory_bytes=devices.memory_bytes // torchrun.processes)
    if torchrun.processes > devices.count:
        raise UserError(f"--torchrun: --nproc_per_node {torchrun.processes}, but this machine has {devices.count} GPUs")
    return replace(devices, count=count)


def named_devices(name: str, count: int) -> Devices:
    """Devices that are not at hand.

    Raises:
        UserError: the name is not in the table.
    """
    known = next((known for known in PEAK_FLOPS if known.lower() == name.lower()), None)
    if known is None:
        raise UserError(f"--device_name: '{name}' is unknown; choose from: {', '.join(PEAK_FLOPS)}")
    return Devices(known, "cuda", count, PEAK_FLOPS[known], MEMORY_GIB[known] << 30)


def measured_flops(kind: str, seconds: float = 0.3) -> float:
    """Operations a second of a matrix product, the best of some tries: fp32 on a CPU, bf16 on a GPU."""
    size, dtype = PROBES[kind]
    left, right = (torch.rand(size, size, device=kind).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        torch.mm(left, right)
        if kind == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _host_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
