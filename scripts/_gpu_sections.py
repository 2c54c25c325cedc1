"""The sections of `check_gpu.py`. Not a command. Each takes a `Job` and records facts."""

import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable

import torch
from _checks import (
    SEQ_LENGTH,
    SWITCHED_OFF,
    WAYS,
    Curves,
    furthest,
    hidden_waits,
    kill_and_resume,
    losses,
    pretrain,
    reports,
    tolerance,
    worst_difference,
)
from _gpu_families import FAMILIES, prepare
from _gpu_job import Job, first_line, run, usable
from _gpu_kernels import attention, embedding_backward
from _random_run import ROOT, RandomRows, executed_flops, host_seconds, open_trainer, real_tokens

from uer.planning.hardware import known_gpu
from uer.training.update import Update

SIZES = ("tiny", "mini", "small", "medium", "base")
STEP_TIMES = "step_times.json"


def environment(job: Job) -> None:
    """Versions and devices."""
    facts = job.facts
    facts.info("versions", python=sys.version.split()[0], torch=torch.__version__, cuda=torch.version.cuda,
               cudnn=torch.backends.cudnn.version() if job.cuda else None, cpu_cores=len(os.sched_getaffinity(0)),
               cpu=torch.backends.cpu.get_cpu_capability())
    if not job.cuda:
        return
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        facts.info(f"GPU {number}", device=found.name, memory_gib=found.total_memory / 2**30,
                   capability=f"{found.major}.{found.minor}", peak_known=known_gpu(found.name) is not None)
    if shutil.which("nvidia-smi"):
        done = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                              capture_output=True, text=True, timeout=20, check=False)
        facts.info("driver", version=done.stdout.split("\n")[0].strip())
    facts.check(torch.cuda.is_bf16_supported(), "bf16", otherwise="--precision fp16")


OTHERWISE = {"bf16": "--precision fp32", "compiled": "--compile off", "graph": "--cuda_graph off",
             "compiled, graph": "--cuda_graph off", "compiled, graph, packed": "--unpad off", "packed": "--unpad off",
             "compiled, combo_kernels": "--combo_kernels off", "bf16 weights": "--weights_dtype fp32",
             "fp16": "--precision bf16"}
"""What does without a way to run that is wrong."""


def curves(job: Job) -> None:
    """Every way to run gives the losses of fp32 with everything switched off, on one stream of batches."""
    made = Curves(job.new_folder(), ["--device", job.device], 8 if job.quick else 64, 4 if job.quick else 60)
    still = ("--dropout", "0")
    reference = made.of("--precision", "fp32", *still)
    job.facts.info("fp32, everything off", first=reference[0], last=reference[-1])
    for name, flags in WAYS.items():
        if (not job.cuda and name not in ("bf16", "packed")) or (job.cuda and name == "packed"):
            continue
        if job.facts.out_of_time(name):
            return
        try:
            curve = made.of(*flags, *still)
        except RuntimeError as error:
            if job.cuda and not usable():
                raise
            job.facts.check(False, name, error=first_line(error), otherwise=OTHERWISE[name])
            continue
        worst = worst_difference(reference, curve, skipping=name == "fp16")
        job.facts.check(worst < tolerance(name), name, worst=worst, at=furthest(reference, curve), last=curve[-1],
                        otherwise=OTHERWISE[name])
    half = ("--batch_size", str((8 if job.quick else 64) // 2), "--accumulation_steps", "2")
    worst = worst_difference(reference, made.of("--precision", "fp32", *half, *still))
    job.facts.check(worst < 0.002, "two micro-batches", worst=worst)
    if job.cuda:
        graph = [made.of(*WAYS["compiled"], "--cuda_graph", chosen, *more)
                 for more in ((), half) for chosen in ("off", "on")]
        for name, (left, right) in {"dropout": graph[:2], "dropout, two micro-batches": graph[2:]}.items():
            worst = worst_difference(left, right)
            job.facts.check(worst < 0.01, f"{name}: with a graph and without", worst=worst,
                            otherwise="--cuda_graph off")


def speed(job: Job) -> None:
    """Each size with pretrain.py's own choices; the step times are written for `pretrain_family.py --step_times`."""
    found = []
    for size in SIZES[:1] if job.quick else SIZES:
        if job.facts.out_of_time(size, 5.0 if job.quick else 30.0):
            break
        begin = time.perf_counter()
        trainer = job.trainer(size)
        run(trainer, 1 if job.quick else 10)
        start_s = time.perf_counter() - begin
        seconds = job.step_seconds(trainer)
        peak, tokens = trainer.parts.reporter.peak_flops, real_tokens(trainer)
        mfu = executed_flops(trainer) / seconds / peak if peak else None
        memory = torch.cuda.max_memory_allocated() / 2**30 if job.cuda else None
        precision = trainer.parts.precision.name
        job.facts.info(size, step_ms=1000 * seconds, host_ms=1000 * host_seconds(trainer, 4 if job.quick else 32),
                       real_tokens_per_second=tokens / seconds, slots_per_second=job.rows * SEQ_LENGTH / seconds,
                       mfu=mfu, memory_gib=memory, start_s=start_s, precision=precision,
                       graph=type(trainer.update) is not Update)
        found.append({"size": size, "batch_size": job.rows, "seq_length": SEQ_LENGTH, "precision": precision,
                      "step_ms": 1000 * seconds,
                      "device": torch.cuda.get_device_name() if job.cuda else "cpu"})
        (job.facts.out / STEP_TIMES).write_text(json.dumps(found, indent=1) + "\n")
        del trainer


def syncs(job: Job) -> None:
    """No hidden wait of the host for the GPU, launched one by one and as graphs."""
    if not job.cuda:
        return job.facts.info("not on a CPU")
    for name, flags in {"launched one by one": SWITCHED_OFF, "as pretrain.py chooses": []}.items():
        if job.facts.out_of_time(name):
            return None
        trainer = job.trainer("tiny", *flags, fill=0.6)
        run(trainer, 40)
        at = hidden_waits(trainer, 24)
        job.facts.check(not at, name, at=at)
    return None


def families(job: Job) -> None:
    """Every family of models gives with pretrain.py's own choices the losses of fp32 with everything switched off."""
    rows, updates = (4, 3) if job.quick else (32, 40)
    for name in FAMILIES:
        if job.facts.out_of_time(name, 20.0):
            return
        try:
            flags = [*prepare(name, job.new_folder(), 20 * rows, SEQ_LENGTH), "--device", job.device, "--batch_size",
                     str(rows)]
            reference = losses(open_trainer(flags, SWITCHED_OFF, ["--precision", "fp32"]), updates)
            trainer = open_trainer(flags)
            curve = losses(trainer, updates)
            step_ms = 1000 * run(trainer, 1 if job.quick else 20)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            if job.cuda and not usable():
                raise
            job.facts.check(False, name, error=first_line(error))
            (job.facts.out / f"error_{name}.txt").write_text(traceback.format_exc())
            continue
        worst = worst_difference(reference, curve)
        falls = job.quick or curve[-1] < curve[0]  # a few updates of a few rows do not show whether a model learns
        job.facts.check(worst < 0.1 and falls, name, worst=worst, at=furthest(reference, curve),
                        first=curve[0], last=curve[-1],
                        step_ms=step_ms, update=type(trainer.update).__name__)


def variants(job: Job) -> None:
    """What each choice is worth: milliseconds of an update, one change at a time."""
    combo = ("--compile", "on", "--combo_kernels", "on")
    off = ("--unpad", "off")
    compared = {"tiny": ("tiny", (), {}), "tiny, no graph": ("tiny", ("--cuda_graph", "off"), {}),
                "tiny, dataset on the host": ("tiny", ("--dataset_device", "cpu"), {}),
                "tiny, 512 rows": ("tiny", (), {"rows": 16 if job.quick else 512}),
                "tiny, combo_kernels": ("tiny", combo, {}), "mini": ("mini", (), {}),
                "mini, combo_kernels": ("mini", combo, {}),
                "tiny, half empty": ("tiny", (), {"fill": 0.5}),
                "tiny, half empty, padding kept": ("tiny", off, {"fill": 0.5}),
                "tiny, bf16 weights": ("tiny", ("--weights_dtype", "bf16"), {}),
                "base, bf16 weights": ("base", ("--weights_dtype", "bf16"), {}),
                "base": ("base", (), {}), "base, no graph": ("base", ("--cuda_graph", "off"), {}),
                "base, half empty": ("base", (), {"fill": 0.5}),
                "base, half empty, padding kept": ("base", off, {"fill": 0.5})}
    on_cpu = ("tiny", "tiny, half empty", "tiny, half empty, padding kept")
    found: dict[str, float] = {}
    for name, (size, flags, rows) in compared.items():
        if not job.cuda and name not in on_cpu:
            continue
        if job.facts.out_of_time(name, 3.0 if job.quick else 20.0):
            break
        trainer = job.trainer(size, *flags, **rows)
        found[name] = 1000 * job.step_seconds(trainer, 0.7)
        job.facts.info(name, step_ms=found[name])
        del trainer
    for size in ("tiny", "mini"):
        if found.get(f"{size}, combo_kernels", float("inf")) < 0.97 * found.get(size, 0.0):
            job.facts.info(f"{size} is faster with combo_kernels", use="--combo_kernels on")
    embedding_backward(job)


def resume(job: Job) -> None:
    """pretrain.py killed with SIGKILL and started again ends as one that was not killed."""
    rows = 4 if job.quick else 64
    flags = [*RandomRows(20 * rows, SEQ_LENGTH, 0.6).write(job.new_folder(), "tiny"), "--batch_size", str(rows),
             "--device", job.device, "--learning_rate", "3e-4", "--compile", "off"]  # it starts three times
    whole, killed, output = kill_and_resume(job.new_folder(), flags, 8 if job.quick else 400,
                                            job.facts.ends - time.monotonic())
    (job.facts.out / "resume.txt").write_text(output)
    job.facts.check(abs(whole - killed) < 0.02, "killed and continued", whole=whole, killed=killed)
    job.facts.check("resumed after step" in output, "it went on from a training state")


def ranks(job: Job) -> None:
    """Two ranks (NCCL on GPUs) give the losses of one, and how much faster they are."""
    count = torch.cuda.device_count() if job.cuda else 2
    if count < 2:
        return job.facts.info("one GPU")
    rows, updates = (4, 4) if job.quick else (64, 200)
    written = RandomRows(20 * rows, SEQ_LENGTH, 0.6).write(job.new_folder(), "tiny")
    ends = {}
    for world_size in (1, 2) if count < 4 or job.quick else (1, 2, count):
        folder = job.new_folder()
        metrics = folder / "metrics.jsonl"
        many = ["--world_size", str(world_size), "--gpu_ranks", *map(str, range(world_size))] if world_size > 1 else []
        done = pretrain([*written, "--device", job.device, "--batch_size", str(rows), "--accumulation_steps",
                         str(count if world_size == 1 else count // world_size), "--total_steps", str(updates),
                         "--report_steps", str(updates // 4), "--metrics_path", str(metrics), "--dropout", "0",
                         "--output_model_path", str(folder / "model"), *many],
                        max(1.0, job.facts.ends - time.monotonic()))
        if done.returncode:
            return job.facts.check(False, f"{world_size} ranks", error=done.stdout[-300:])
        ends[world_size] = reports(metrics)[-1]
        job.facts.check(abs(ends[world_size]["loss"] - ends[1]["loss"]) < 0.02, f"{world_size} ranks",
                        loss=ends[world_size]["loss"],
                        faster=ends[world_size]["tokens_per_second"] / ends[1]["tokens_per_second"])
    return None


def tests(job: Job) -> None:
    """The tests marked `gpu`."""
    if not job.cuda:
        return job.facts.info("not on a CPU")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"], cwd=ROOT, capture_output=True,
                          text=True, timeout=max(1.0, job.facts.ends - time.monotonic()), check=False)
    (job.facts.out / "tests.txt").write_text(done.stdout + done.stderr)
    lines = (done.stdout or done.stderr).strip().splitlines()
    job.facts.check(done.returncode == 0, "tests marked gpu", last=lines[-1][:120] if lines else "")
    return None


def profile(job: Job) -> None:
    """Tables of the kernels of an update, launched one by one; written to files."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    for size in ("tiny",) if job.quick else ("tiny", "base"):
        trainer = job.trainer(size, "--cuda_graph", "off")
        run(trainer, 2 if job.quick else 12)
        with profiler(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if job.cuda else [])]) as seen:
            run(trainer, 4)
        key = "self_device_time_total" if job.cuda else "self_cpu_time_total"
        path = job.facts.out / f"profile_{size}.txt"
        path.write_text(seen.key_averages().table(sort_by=key, row_limit=45, max_name_column_width=90))
        kernels = sum(str(event.device_type).endswith("CUDA") for event in seen.events())
        job.facts.info(size, kernels_an_update=kernels / 4, file=path.name)


# name -> (section, seconds that it may take)
SECTIONS: dict[str, tuple[Callable[[Job], None], float]] = {
    "environment": (environment, 30), "attention": (attention, 60), "curves": (curves, 200), "speed": (speed, 200),
    "syncs": (syncs, 60), "families": (families, 200), "variants": (variants, 240),
    "resume": (resume, 120), "ranks": (ranks, 120), "profile": (profile, 60), "tests": (tests, 240)}
