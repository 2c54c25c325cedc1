"""The two sides of `benchmark_training.py` and their measurement. Not a command."""

import dataclasses
import functools
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _gpu_families import SIZES, prepare, settings
from _neighbours import busy_processes
from _random_run import (
    VOCAB_SIZE,
    RandomRows,
    all_threads,
    executed_flops,
    host_seconds,
    open_trainer,
    real_tokens,
    synchronise,
)
from _transformers_side import Lap, Side, loop_side, trainer_side, why_no_trainer

from uer.config import MaskingConfig
from uer.data.loader import open_processor
from uer.data.processors import Processor
from uer.data.store import open_dataset
from uer.planning.flops import flops_per_token
from uer.training.trainer import Trainer

WARM_UP = {"cpu": 5, "cuda": 30}  # updates that are not timed; on a GPU every size of batch is captured in them
TIMED = 2
MANY_CHARACTERS = [chr(0x4E00 + number) for number in range(VOCAB_SIZE - 105)]  # beside special tokens and sentinels
PASSED_ON = ("compile", "cuda_graph", "unpad", "combo_kernels", "threads")  # flags of pretrain.py
KINDS = {"_CpuAttention": "attention", "_BlockedLoss": "output layer and cross-entropy",
         "CpuDropout": "dropout", "Optimizer.": "optimizer",
         "aten::mm": "matrix products of the layers", "aten::addmm": "matrix products of the layers",
         "aten::gelu": "gelu", "aten::native_layer_norm": "norm", "aten::embedding": "embedding"}
"""Beginning of an event's name in the profiler -> the name shown here."""


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    size: str
    seq_length: int
    fill: float | None
    """None where the processor says it."""
    device: str
    precision: str
    family: str = "bert"


def possible(against: str) -> str:
    """What to compare with, where transformers or accelerate are missing; says so."""
    if against == "trainer" and (problem := why_no_trainer()):
        print(f"note: transformers' Trainer cannot run ({problem}); a loop around the same model takes its place")
        return "loop"
    return against


def compare(case: Case, config: Any) -> dict[str, Any]:
    """Time both sides of a case alternately."""
    with tempfile.TemporaryDirectory() as folder, busy_processes(config.neighbours):
        trainer = our_trainer(case, config, Path(folder))
        sides: dict[str, Side] = {"ours": our_side(trainer)}
        if config.against != "none":
            sides["transformers"] = their_side(case, config, trainer, Path(folder))
        laps = timed(sides, config, case.device)
        memory = torch.cuda.max_memory_allocated() / 2**30 if case.device == "cuda" else None
        host = host_seconds(trainer, 16) if case.device == "cuda" else laps["ours"].seconds
        figures = {
            **slots_and_flops(case, trainer, laps["ours"].seconds, Path(folder)), "host_ms": 1000 * host,
            "memory_gib": memory,
            "profile_ms": profiled(trainer, config.profile_steps) if config.profile_steps else {}}
    ours = laps["ours"]
    record = {**described(case, trainer), "batch_size": config.batch_size, "neighbours": config.neighbours,
              "against": config.against, "step_ms": 1000 * ours.seconds,
              "real_tokens_per_second": ours.real_tokens / ours.seconds, **figures}
    if "transformers" in laps:
        theirs = laps["transformers"]
        record["transformers_step_ms"] = 1000 * theirs.seconds
        record["transformers_real_tokens_per_second"] = theirs.real_tokens / theirs.seconds
        record["ratio"] = record["real_tokens_per_second"] / record["transformers_real_tokens_per_second"]
    return record


def described(case: Case, trainer: Trainer) -> dict[str, Any]:
    """The case, with the fill that its batches have; bert, the usual family, is not named."""
    known = dataclasses.asdict(case)
    if case.family == "bert":
        del known["family"]
        return known
    return {**known, "fill": real_tokens(trainer) / (trainer.parts.loader.samples_per_step * case.seq_length)}


def slots_and_flops(case: Case, trainer: Trainer, seconds: float, folder: Path) -> dict[str, Any]:
    """What follows from the seconds of an update: slots a second, the floor, and MFU where the peak is known."""
    slots = trainer.parts.loader.samples_per_step * case.seq_length
    config = trainer.parts.model.config
    flops = flops_per_token(config, VOCAB_SIZE, case.seq_length, processor_of(case, folder)) * slots
    peak = trainer.parts.reporter.peak_flops
    with all_threads():
        rate = matmul_rate(case.device, case.precision)
    return {"slots_per_second": slots / seconds, "floor_ms": 1000 * flops / rate,
            "mfu": executed_flops(trainer) / seconds / peak if peak else None,
            "update": type(trainer.update).__name__}


def processor_of(case: Case, folder: Path) -> Processor | None:
    """The processor of a case's batches; None for mlm."""
    return None if case.family == "bert" else open_processor([open_dataset(folder / "data.pt")], MaskingConfig())


def print_row(record: dict[str, Any], header: bool) -> None:
    """A line of the table."""
    shown = {"size": "{family} {size}" if "family" in record else "{size}", "length": "{seq_length}",
             "fill": "{fill:.2f}", "device": "{device}", "precision": "{precision}", "ours": "{step_ms:.2f} ms",
             "transformers": "{transformers_step_ms:.2f} ms",
             "ratio": "{ratio:.2f}", "real/s": "{real_tokens_per_second:,.0f}", "slots/s": "{slots_per_second:,.0f}",
             "MFU": "{mfu:.1%}", "host": "{host_ms:.2f} ms", "GiB": "{memory_gib:.2f}", "floor": "{floor_ms:.2f} ms"}
    if header:
        print(" ".join(f"{name:>{max(len(name), 11)}}" for name in shown))
    print(" ".join(f"{filled(text, record):>{max(len(name), 11)}}" for name, text in shown.items()), flush=True)
    total = sum(record["profile_ms"].values())
    for kind, value in sorted(record["profile_ms"].items(), key=lambda item: -item[1]):
        print(f"{value:>12.1f} ms {value / total:>6.1%}  {kind}")


def filled(text: str, record: dict[str, Any]) -> str:
    """A cell; "-" where there is no such value."""
    try:
        return text.format(**record)
    except (KeyError, TypeError):
        return "-"


def our_trainer(case: Case, config: Any, folder: Path) -> Trainer:
    """The trainer that pretrain.py runs with these flags, on random rows."""
    chosen = {"device": case.device, "precision": case.precision, "batch_size": config.batch_size,
              **{name: getattr(config, name) for name in PASSED_ON}}
    flags = [word for name, value in chosen.items() if value is not None for word in (f"--{name}", str(value))]
    if case.family != "bert":
        return open_trainer(prepare(case.family, folder, 50 * config.batch_size, case.seq_length, MANY_CHARACTERS,
                                    settings(case.family, SIZES[case.size])), flags)
    rows = RandomRows(50 * config.batch_size, case.seq_length, case.fill)
    return open_trainer(rows.write(folder, case.size), flags)


def our_side(trainer: Trainer) -> Side:
    tokens = real_tokens(trainer)

    def run(updates: int) -> Lap:
        begin = time.perf_counter()
        for _ in range(updates):
            trainer.run_update()
        synchronise(trainer.world.device)
        return Lap((time.perf_counter() - begin) / updates, tokens)

    return run


def their_side(case: Case, config: Any, trainer: Trainer, folder: Path) -> Side:
    """transformers on the rows of our trainer, with the threads that ours may use."""
    make = trainer_side if config.against == "trainer" else loop_side
    if case.family != "bert":
        make = functools.partial(make, family=case.family)
    side = make(trainer.parts.model.config, folder / "data.pt", folder / "vocab.txt", batch_size=config.batch_size,
                device=trainer.world.device, precision=case.precision,
                compiled=config.compile == "on" or (config.compile == "auto" and case.device == "cuda"))

    def run(updates: int) -> Lap:
        with all_threads(config.threads):
            lap = side(updates)
        # Both sides take the same batches; tokens are counted as they are stored, before noise.
        return lap if case.family == "bert" else Lap(lap.seconds, real_tokens(trainer))

    return run


def timed(sides: dict[str, Side], config: Any, device: str) -> dict[str, Lap]:
    """The median seconds of an update and its real tokens, each side once in each round."""
    updates = {}
    for name, side in sides.items():
        side(WARM_UP[device])
        updates[name] = max(TIMED, round(config.seconds / side(TIMED).seconds))
    found: dict[str, list[Lap]] = {name: [] for name in sides}
    for _ in range(config.rounds):
        for name, side in sides.items():
            found[name].append(side(updates[name]))
    return {name: Lap(*(statistics.median(values) for values in zip(*laps))) for name, laps in found.items()}


def profiled(trainer: Trainer, steps: int) -> dict[str, float]:
    """Milliseconds of an update by `KINDS`; operations that a custom function of ours calls count for that function."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        our_side(trainer)(steps)
    found: dict[str, float] = {}
    for event in profiler.events():
        kind = kind_of(event)
        found[kind] = found.get(kind, 0.0) + event.self_cpu_time_total / 1000 / steps
    return found


def kind_of(event: Any) -> str:
    """The kind of an event: that of its outermost caller that has one."""
    kind = "everything else"
    while event is not None:
        kind = next((name for start, name in KINDS.items() if event.name.startswith(start)), kind)
        event = event.cpu_parent
    return kind


def matmul_rate(device: str, precision: str) -> float:
    """FLOPs a second of a large matrix product: the fastest of several."""
    size = 8192 if device == "cuda" else 1024
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    best = 0.0
    for _ in range(20):
        synchronise(a.device)
        begin = time.perf_counter()
        a @ b
        synchronise(a.device)
        best = max(best, 2 * size ** 3 / (time.perf_counter() - begin))
    return best
