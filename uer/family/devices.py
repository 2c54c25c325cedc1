"""The devices that a plan is made for: those of this machine, or those that `--device_name` names."""

import os
import time
from dataclasses import dataclass

import torch

from uer.errors import UserError
from uer.family import mps
from uer.family.config import MachineConfig
from uer.planning.hardware import GPUS, known_gpu
from uer.runtime.precision import TYPES, Precision, automatic, cpu_choice

NAMED_COUNT = 8
PROBE_SIZES = {"cpu": 768, "cuda": 8192}
PROBE_TYPES = {"fp32": torch.float32, **TYPES}
MEASURED = "measured just now with a matrix product"


@dataclass(frozen=True)
class Devices:
    """One or more devices of the same kind.

    Attributes:
        name: for the plan, such as "H100" or "CPU of 8 cores".
        kind: cuda or cpu.
        count: number of devices.
        peak_flops: floating-point operations a second of one device; 0 when unknown.
        memory_bytes: memory of one device; 0 when unknown.
        note: where the peak comes from.
        precision: the precision of the peak: fp32, bf16 or fp16; "" when unknown.
        concurrent: processes on one GPU run at the same time (CUDA MPS); False: they take turns.
    """

    name: str
    kind: str
    count: int
    peak_flops: float
    memory_bytes: int
    note: str = ""
    precision: str = ""
    concurrent: bool = True


def find_devices(config: MachineConfig) -> Devices:
    """The devices of the plan.

    Raises:
        UserError: the name is unknown, or there are fewer GPUs than asked for.
    """
    if config.device_name:
        return named_devices(config.device_name, config.device_count or NAMED_COUNT, config)
    count = torch.cuda.device_count() if config.device != "cpu" else 0
    if config.device == "cuda" and not count:
        raise UserError("--device cuda: torch sees no GPU on this machine")
    if not count:
        if config.device_count > 1:
            raise UserError(f"--device_count {config.device_count}: this machine has no GPU (to plan for other "
                            "devices, give --device_name and --dry_run)")
        return _at_hand(f"CPU of {os.cpu_count()} cores", "cpu", 1, _host_memory(), config)
    if config.device_count > count:
        raise UserError(f"--device_count {config.device_count}: this machine has {count} GPUs")
    properties = torch.cuda.get_device_properties(0)
    return _at_hand(properties.name, "cuda", config.device_count or count, properties.total_memory, config)


def _at_hand(name: str, kind: str, count: int, memory: int, config: MachineConfig) -> Devices:
    """Devices of this machine: their peak is given by `--peak_flops`, known for this GPU, or measured."""
    precision = Precision(config.precision, torch.device(kind), choose_on_cpu=cpu_choice).name
    known = known_gpu(name) if kind == "cuda" else None
    peak = config.peak_flops or (GPUS[known].peak_flops(precision) if known else 0.0)
    return Devices(name, kind, count, peak or measured_flops(kind, precision), _memory_bytes(config) or memory,
                   _note(config) if peak else MEASURED, precision,
                   concurrent=kind == "cuda" and config.mps == "auto" and mps.available())


def named_devices(name: str, count: int, config: MachineConfig | None = None) -> Devices:
    """Devices that `--device_name` names; they need not be in this machine.

    Raises:
        UserError: the name is not in the table, and --peak_flops and --memory_gib are not both given.
    """
    config = config or MachineConfig()
    known = next((known for known in GPUS if known.lower() == name.lower()), None)
    if known is None and not (config.peak_flops and config.memory_gib):
        raise UserError(f"--device_name: '{name}' is unknown; choose from: {', '.join(GPUS)}; or give --peak_flops and "
                        "--memory_gib for it")
    wanted = config.precision
    if known is None:
        precision = automatic(True) if wanted == "auto" else wanted
        return Devices(name, "cuda", count, config.peak_flops, _memory_bytes(config), _note(config), precision,
                       config.mps == "auto")
    gpu = GPUS[known]
    precision = automatic(gpu.bf16) if wanted == "auto" else wanted
    return Devices(known, "cuda", count, config.peak_flops or gpu.peak_flops(precision),
                   _memory_bytes(config) or round(gpu.memory_gib * 2**30), _note(config), precision,
                   config.mps == "auto")


def _note(config: MachineConfig) -> str:
    return "by --peak_flops" if config.peak_flops else ""


def _memory_bytes(config: MachineConfig) -> int:
    return round(config.memory_gib * 2**30)


def measured_flops(kind: str, precision: str = "fp32", seconds: float = 0.3) -> float:
    """FLOPs a second of a matrix product in this precision: the fastest of those that fit into `seconds`."""
    size = PROBE_SIZES[kind]
    left, right = (torch.rand(size, size, device=kind).to(PROBE_TYPES[precision]) for _ in range(2))
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
