"""What to run first on a new machine: shows what works there, how fast it is, and which flags to use.

    python3 scripts/check_gpu.py --out check_out                     about twelve minutes, the most important first
    python3 scripts/check_gpu.py --out check_out --only speed        a section by itself
    python3 scripts/check_gpu.py --device cpu --quick                without a GPU: whatever runs on a CPU, a minute

Each section prints a line a fact: PASS or FAIL for what must hold, INFO for what is measured. A section that fails, or
kills the process that it runs in, or takes longer than it may does not keep the next one from running.

    environment    versions, devices
    attention      which kernel runs, the dropout that it really applies, its time, rows end to end
    curves         losses in fp32 against bf16, compiled, CUDA graph, fp16, packed: one stream of batches
    speed          the five sizes: milliseconds, MFU, the host's time, memory
    syncs          no hidden wait of the host for the GPU
    families       GPT-2, T5, BART and others: the losses of fp32
    variants       no graph, dataset on the host, 512 rows, combo_kernels, half-empty rows, embedding gradients
    resume         a run that is killed and continued
    ranks          several GPUs, where there are
    profile        tables of the kernels
    tests          the tests marked gpu

The folder --out then has facts.jsonl, step_times.json (which pretrain_family.py reads), the profiles, and the full text
of what failed. Neither transformers nor a network is needed. Exit status: 0, or 1 where something failed.
"""

import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _gpu_facts import BEGIN, FAIL, FILE, PASS, Facts
from _ranges import outside

from uer import cli
from uer.config import flag
from uer.errors import UserError

NAMES = ("environment", "attention", "curves", "speed", "syncs", "families", "variants", "resume", "ranks", "profile",
         "tests")
GRACE_SECONDS = 20.0  # that a section may take longer than it was told
LEAST_SECONDS = 5.0  # with less, no section begins
BROKEN = 3  # exit status of a process whose GPU is in an unknown state


@dataclass(frozen=True)
class CheckConfig:
    """What to check."""

    out: str = flag("check_out", "Folder for the results; it is made.", path="write_folder")
    device: str = flag("cuda", "Where to compute.", choices=("cuda", "cpu"))
    seconds: float = flag(720.0, "When to stop.")
    quick: bool = flag(False, "The least that shows that each section runs.")
    only: tuple[str, ...] = flag((), "Run only these sections.", choices=NAMES)
    in_process: bool = flag(False, "Run the sections in this process, which a failure of the GPU may end.")

    def problems(self) -> list[str]:
        return outside(self, seconds=(1.0, 86400.0))


def main() -> None:
    """Run the sections, then print the table."""
    config, = cli.parse(__doc__, (CheckConfig,))
    facts = Facts(Path(config.out))
    names = [name for name in NAMES if not config.only or name in config.only]
    if config.in_process:
        sys.exit(run_sections(names, facts, config))
    facts.out.mkdir(parents=True, exist_ok=True)
    (facts.out / FILE).unlink(missing_ok=True)
    watch(names, facts, config)
    records = [record for record in facts.read() if record["kind"] != BEGIN]
    print("\n" + "\n".join(table(records)))
    sys.exit(any(record["kind"] == FAIL for record in records))


def run_sections(names: list[str], facts: Facts, config: CheckConfig) -> int:
    """Run sections in this process; returns its exit status."""
    import torch
    from _gpu_job import Job, first_line, usable  # torch takes seconds
    from _gpu_sections import SECTIONS

    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU on this machine")
    ends = time.monotonic() + config.seconds
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            section, longest = SECTIONS[name]
            left = ends - time.monotonic()
            if left < LEAST_SECONDS:
                print(f"INFO {name}: left out, the time is up", flush=True)
                continue
            facts.begin(name, min(longest, left))
            try:
                section(Job(facts, config.device, config.quick, Path(folder)))
            except Exception as error:
                facts.check(False, "the section ends without an error", error=first_line(error))
                (facts.out / f"error_{name}.txt").write_text(traceback.format_exc())
                if config.device == "cuda" and (type(error).__name__ == "CaptureError" or not usable()):
                    return BROKEN
    return 0


def watch(names: list[str], facts: Facts, config: CheckConfig) -> None:
    """Run sections in a process of their own, and those that are left in another one where it dies or hangs."""
    ends = time.monotonic() + config.seconds
    while names and time.monotonic() < ends:
        before = len(facts.read())
        status = run_child(names, facts, config, ends)
        begun = [record["section"] for record in facts.read()[before:] if record["kind"] == BEGIN]
        if status == 0:
            return
        if not begun:  # it ended before any section: an error in the flags or the installation, which it printed
            facts.check(False, "the sections begin", status=status)
            return
        facts.section = begun[-1]
        if status != BROKEN:
            facts.check(False, "the process goes on", status=status)
        names = names[names.index(begun[-1]) + 1:]


def run_child(names: list[str], facts: Facts, config: CheckConfig, ends: float) -> int:
    """A process that runs sections; returns its exit status, negative where it was ended."""
    command = [sys.executable, __file__, "--in_process", "--out", config.out, "--device", config.device, "--seconds",
               str(max(1.0, ends - time.monotonic())), "--only", *names, *(["--quick"] if config.quick else [])]
    begun = time.monotonic()
    child = subprocess.Popen(command)
    try:
        while child.poll() is None:
            time.sleep(0.1)
            limits = [record["ends"] for record in facts.read() if record["kind"] == BEGIN and record["ends"] > begun]
            if time.monotonic() > (limits[-1] if limits else ends) + GRACE_SECONDS:
                child.kill()
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
    return child.returncode


def table(records: list[dict[str, Any]]) -> list[str]:
    """What works, at which speed, and which flags to use, as lines."""
    lines = [f"{'section':12} {'PASS':>5} {'FAIL':>5}"]
    for name in dict.fromkeys(record["section"] for record in records):
        kinds = [record["kind"] for record in records if record["section"] == name]
        lines.append(f"{name:12} {kinds.count(PASS):>5} {kinds.count(FAIL):>5}")
    lines += ["", *(f"FAIL {record['section']}: {record['name']}" for record in records if record["kind"] == FAIL)]
    return [*lines, *speed_lines(records), "", flags_line(records)]


def speed_lines(records: list[dict[str, Any]]) -> list[str]:
    """A line for each size of the section `speed`."""
    lines = []
    for record in records:
        if record["section"] == "speed" and "step_ms" in record:
            mfu = f", MFU {record['mfu']:.1%}" if record["mfu"] else ""
            memory = f", {record['memory_gib']:.1f} GiB" if record["memory_gib"] else ""
            lines.append(f"{record['name']:7} {record['step_ms']:9.2f} ms, {record['real_tokens_per_second']:,.0f} "
                         f"tokens/s{mfu}{memory}, {record['precision']}" + ", CUDA graph" * record["graph"])
    return lines


def flags_line(records: list[dict[str, Any]]) -> str:
    """Which flags of pretrain.py to use here."""
    wanted = [record["otherwise"] for record in records if record["kind"] == FAIL and "otherwise" in record]
    wanted += [record["use"] for record in records if "use" in record]
    chosen = {known.split()[0]: known for known in reversed(wanted)}  # what does without a fault has precedence
    if not chosen:
        return "flags to use here: none, pretrain.py's own choices"
    return "flags to use here: " + " ".join(reversed(chosen.values()))


if __name__ == "__main__":
    cli.run(main)
