"""The commands of the original UER-py beside ours, for `benchmark_training.py --uer_path`. Not a command.

Both preprocess the corpus once and then pretrain in turns (A B A B), with the same vocabulary, model settings, batch
size and rows, each from its own folder. Both get the same number of threads from the environment. What is timed is the
time between two report lines as they arrive, for both by one clock:

    |        6/      36 steps|  9512.33 tokens/s| loss ...      the start-up ends here
    |       12/      36 steps|  9633.10 tokens/s| loss ...      6 updates since the line before

The `tokens/s` of the original, which count padding, are shown beside the result.
"""

import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from uer.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
REPORT = re.compile(r"(\d+)/\s*\d+ steps\|\s*([\d.]+) tokens/s")
REPORTS = 6  # of each command
SHOWN_LINES = 3
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Line(NamedTuple):
    """A line that a command printed, and when it came."""

    text: str
    seconds: float


class Report(NamedTuple):
    """What a report line says."""

    step: int
    tokens_per_second: float
    seconds: float


def check_checkout(config: Any) -> None:
    """Check the flags of --uer_path before anything is timed.

    Raises:
        UserError: a file or flag is missing.
    """
    if not config.corpus_path:
        raise UserError("--uer_path needs --corpus_path")
    if config.command_steps < REPORTS:
        raise UserError(f"--command_steps {config.command_steps}: at least {REPORTS} are needed, one for each report "
                        "line")
    for script in ("preprocess.py", "pretrain.py"):
        if not Path(config.uer_path, script).is_file():
            raise UserError(f"--uer_path {config.uer_path}: no checkout of UER-py, it has no {script}")
    for flag_name, path in (("--corpus_path", config.corpus_path), ("--vocab_path", config.vocab_path)):
        if not Path(path).is_file():
            raise UserError(f"{flag_name} {path}: no such file")


def compare_commands(size: str, config: Any) -> dict[str, Any]:
    """Run the original's commands and ours in turns, on the first of the devices.

    Args:
        config: of the benchmark.

    Raises:
        UserError: a command fails, or prints no report lines as above.
    """
    folders = {"ours": ROOT, "original": Path(config.uer_path).resolve()}
    updates: dict[str, list[float]] = {name: [] for name in folders}
    printed: list[float] = []
    with tempfile.TemporaryDirectory() as outputs:
        for name, folder in folders.items():
            preprocess(folder, Path(outputs, f"{name}.pt"), config)
        for number, (name, folder) in itertools.product(range(config.rounds), folders.items()):
            reports = pretrain(folder, Path(outputs, f"{name}.pt"), f"{outputs}/{name}-{number}.bin", size, config)
            updates[name].append(seconds_per_update(reports))
            if name == "original":
                printed += [report.tokens_per_second for report in reports[1:]]
    slots = config.batch_size * config.seq_lengths[0]
    ours, original = (slots / statistics.median(updates[name]) for name in folders)
    ratio = statistics.median(other / own for own, other in zip(updates["ours"], updates["original"]))
    print(f"{size}: {ours:,.0f} slots/s, the original {original:,.0f} (it prints {statistics.median(printed):,.0f} "
          f"tokens/s), ratio {ratio:.2f} (as commands, {threads(config)} threads)")
    return {"size": size, "command": "pretrain.py", "batch_size": config.batch_size,
            "seq_length": config.seq_lengths[0], "threads": threads(config), "slots_per_second": ours,
            "original_slots_per_second": original, "original_prints": statistics.median(printed), "ratio": ratio}


def preprocess(folder: Path, dataset: Path, config: Any) -> None:
    """Make a dataset with the preprocess.py of a folder."""
    lines = command(folder, "preprocess.py", {
        "corpus_path": absolute(config.corpus_path), "vocab_path": absolute(config.vocab_path),
        "dataset_path": str(dataset), "seq_length": config.seq_lengths[0], "processes_num": threads(config),
        "data_processor": "mlm", "dynamic_masking": None}, config)
    if not dataset.exists():
        raise UserError(f"{folder / 'preprocess.py'} ended without an error and wrote no {dataset.name}; "
                        f"{last_lines(lines)}")


def pretrain(folder: Path, dataset: Path, output: str, size: str, config: Any) -> list[Report]:
    """Train with the pretrain.py of a folder; returns its reports."""
    device = {"gpu_ranks": 0} if config.devices[0] == "cuda" else {}  # without it, the original trains on the CPU
    own = ours_only(config) if folder == ROOT else {}
    lines = command(folder, "pretrain.py", {
        "dataset_path": str(dataset), "vocab_path": absolute(config.vocab_path),
        "config_path": str(ROOT / "models" / "bert" / f"{size}_config.json"), "output_model_path": output,
        "batch_size": config.batch_size, "total_steps": config.command_steps,
        "save_checkpoint_steps": config.command_steps, "report_steps": config.command_steps // REPORTS,
        "data_processor": "mlm", "target": "mlm", **device, **own}, config)
    found = reports_of(lines)
    if len(found) < 2:
        raise UserError(f"{folder / 'pretrain.py'} printed {len(found)} report lines such as '| 6/36 steps| 9512.33 "
                        f"tokens/s| loss 7.01', and at least 2 are needed; {last_lines(lines)}")
    return found


def ours_only(config: Any) -> dict[str, str]:
    """The flags that the original does not know."""
    names = ("compile", "cuda_graph", "unpad", "combo_kernels", "threads")
    return {"precision": config.precisions[0],
            **{name: getattr(config, name) for name in names if getattr(config, name) is not None}}


def reports_of(lines: list[Line]) -> list[Report]:
    """The report lines among the lines of a command.

    Raises:
        UserError: a line with `tokens/s` has other columns.
    """
    found = []
    for line in lines:
        match = REPORT.search(line.text)
        if match:
            found.append(Report(int(match[1]), float(match[2]), line.seconds))
        elif "tokens/s" in line.text:
            raise UserError("a report line has other columns than '| 6/36 steps| 9512.33 tokens/s| loss 7.01': "
                            f"{line.text.strip()}")
    return found


def seconds_per_update(reports: list[Report]) -> float:
    """The median over the pairs of neighbouring reports.

    >>> seconds_per_update([Report(6, 0.0, 9.0), Report(12, 0.0, 12.0), Report(18, 0.0, 16.5), Report(24, 0.0, 19.5)])
    0.5
    """
    return statistics.median((later.seconds - earlier.seconds) / (later.step - earlier.step)
                             for earlier, later in itertools.pairwise(reports))


def threads(config: Any) -> int:
    """The threads of both sides."""
    return config.threads or len(os.sched_getaffinity(0))


def command(folder: Path, script: str, flags: Mapping[str, Any], config: Any) -> list[Line]:
    """Run a script in its own folder; returns the lines that it printed.

    Raises:
        UserError: it fails.
    """
    words = [word for name, value in flags.items()
             for word in ([f"--{name}"] if value is None else [f"--{name}", str(value)])]
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1",
           **dict.fromkeys(THREAD_VARIABLES, str(threads(config)))}
    if config.devices[0] == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    process = subprocess.Popen([sys.executable, script, *words], cwd=folder, env=env, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace")
    try:
        lines = [Line(text, time.perf_counter()) for text in process.stdout]
        status = process.wait()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    if status:
        raise UserError(f"{folder / script} failed with status {status}; {last_lines(lines)}")
    return lines


def absolute(path: str) -> str:
    return str(Path(path).resolve())


def last_lines(lines: list[Line]) -> str:
    """The last lines of a command's output, where Python prints an error."""
    shown = [line.text.strip() for line in lines if line.text.strip()][-SHOWN_LINES:]
    return f"its last lines: {' | '.join(shown)}" if shown else "it printed nothing"
