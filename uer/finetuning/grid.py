"""All settings of a grid on shared data: trials run at once in worker processes, and a stopped grid goes on.

Every finished trial is one JSON line in the results file, written before the next begins. Its key is a hash of all that
decides its figures (data, pretrained weights, settings), so a line is used again only where it says the same thing.

Workers are processes, each with its own model on a device of its own (or a share of one): Python's lock lets CUDA
streams of one process launch only one trial's kernels at a time, and on CPUs a small model is faster on one core than
on several. The parent keeps the best model seen so far and removes the others.
"""

import dataclasses
import glob
import json
import logging
import multiprocessing
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from uer.config import ParallelConfig
from uer.errors import UserError
from uer.files import prepare_file
from uer.finetuning.config import GridConfig
from uer.finetuning.encode import content_hash
from uer.finetuning.run import Command, append_lines, inputs_of, prepare_output, set_up_logging
from uer.finetuning.saved import pretrained_hash, settings_path, vocab_path, weights_path
from uer.finetuning.workbench import Trial, Workbench
from uer.training.launch import Place
from uer.training.lock import OutputLock
from uer.training.parallel import connect

logger = logging.getLogger("uer.finetuning")

MOST_CPU_WORKERS = 4
# What a trial's files are called behind the results file's name: its key, and perhaps the name of a file half written.
TRIAL_FILE = r"\.[0-9a-f]{16}\.(bin|json|vocab\.txt)(\.tmp)?$"


@dataclass(frozen=True)
class Setting:
    """One point of the grid."""

    batch_size: int
    learning_rate: float
    epochs_num: int

    def __str__(self) -> str:
        return f"batch {self.batch_size}, rate {self.learning_rate:g}, {self.epochs_num} epochs"


@dataclass(frozen=True)
class Plan:
    """A trial that has to be run."""

    setting: Setting
    seed: int
    key: str


def settings_of(config: GridConfig) -> list[Setting]:
    """The grid's points, longest trainings first, so that the last trials to finish are short."""
    points = product(config.epochs_num_list, config.batch_size_list, config.learning_rate_list)
    unique = dict.fromkeys(Setting(batch, rate, epochs) for epochs, batch, rate in points)
    return sorted(unique, key=lambda setting: (-setting.epochs_num, setting.batch_size))


def plan_of(command: Command, setting: Setting, seed: int, fingerprints: dict[str, str]) -> Plan:
    """The trial of a setting and a seed; its key covers everything that decides its figures."""
    config = command.finetune
    decides = {"task": command.task_class.name, **dataclasses.asdict(setting), "seed": seed, **fingerprints,
               "seq_length": config.seq_length, "truncation": config.truncation, "early_stop": config.early_stop,
               "save_best_by": config.save_best_by, "precision": config.precision,
               "model": dataclasses.asdict(command.model), "adversarial": dataclasses.asdict(command.adversarial),
               "optim": {**dataclasses.asdict(command.optim), "learning_rate": None},
               "task_config": command.task_config and dataclasses.asdict(command.task_config)}
    if config.compile == "on":  # `auto` is the machine's affair, as its device is
        decides["compile"] = "on"
    return Plan(setting, seed, content_hash(decides)[:16])


def fingerprints_of(command: Command, bench: Workbench) -> dict[str, str]:
    """Hashes of the data, the vocabulary and the pretrained weights."""
    path = command.finetune.pretrained_model_path
    return {"train_hash": bench.train.hash[:16], "dev_hash": bench.dev.hash[:16],
            "test_hash": bench.test.hash[:16] if bench.test else "",
            "vocab_hash": bench.encoder.tokenizer.vocab.fingerprint[:16],
            "pretrained_hash": pretrained_hash(path)[:16] if path else "random start"}


def results_path(command: Command, config: GridConfig) -> Path:
    """Where the trials' lines are kept."""
    return Path(config.results_path or settings_path(command.finetune.output_model_path).with_suffix(".grid.jsonl"))


def _clear_away(path: Path) -> None:
    """Remove what a stopped grid leaves behind: a last line cut short, and the models of trials under way."""
    if path.exists():
        unfinished = path.read_bytes().rpartition(b"\n")[2]
        os.truncate(path, path.stat().st_size - len(unfinished))
    for file in path.parent.glob(f"{glob.escape(path.stem)}.*"):
        if re.match(TRIAL_FILE, file.name.removeprefix(path.stem)):
            file.unlink()


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Finished trials by key; a last line that is not finished, or was cut short by a kill, does not count.

    Raises:
        UserError: a line that is no trial's.
    """
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")
    found = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
            found[record["key"]] = record
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}:{number}: not the line of a trial; is this a grid's results file?") from None
    return found


def run_grid(command: Command, config: GridConfig, run: bool = True) -> list[dict[str, Any]]:
    """Run every trial that the results file lacks; returns the records of all trials of this grid.

    Args:
        run: False only collects what is there.
    """
    if command.parallel.world_size > 1:
        raise UserError("--world_size: the grid runs whole trials beside one another; --parallel_trials says how many")
    if command.log.metrics_path:
        raise UserError("--metrics_path: the grid writes its JSON lines to --results_path")
    world = connect(Place(), ParallelConfig(device=command.parallel.device))
    prepare_output(command)
    set_up_logging(command.log, True)
    bench = open_bench(command, world)
    fingerprints = fingerprints_of(command, bench)
    seeds = command.finetune.seeds or (command.finetune.seed,)
    plans = [plan_of(command, setting, seed, fingerprints) for setting in settings_of(config) for seed in seeds]
    path = results_path(command, config)
    if not run:
        results = read_results(path)
        return [results[plan.key] for plan in plans if plan.key in results]
    prepare_file(path, "--results_path", inputs_of(command))
    lock = _lock(path)
    try:
        return _run_missing(bench, command, config, plans, fingerprints, path)
    finally:
        _clear_away(path)
        lock.release()


def _lock(path: Path) -> OutputLock:
    try:
        return OutputLock(path)
    except UserError:
        raise UserError(f"{path}: another grid is writing there") from None


def _run_missing(bench: Workbench, command: Command, config: GridConfig, plans: Sequence[Plan],
                 fingerprints: dict[str, str], path: Path) -> list[dict[str, Any]]:
    """Run the trials that the results file lacks; the records of all."""
    _clear_away(path)
    results = read_results(path)
    keeper = _Keeper(command, config, path, [results[plan.key] for plan in plans if plan.key in results])
    waiting = [plan for plan in plans if plan.key not in results]
    logger.info("%d trials, %d of them finished before (%s)", len(plans), len(keeper.records), path)
    workers = min(len(waiting), config.parallel_trials or _default_workers(bench.world.device))
    if workers <= 1:
        for plan in waiting:
            keeper.take(run_plan(bench, command, config, plan, fingerprints, path))
    else:
        _run_in_workers(command, config, waiting, fingerprints, path, workers, keeper)
    if config.save_model and not weights_path(command.finetune.output_model_path).exists():
        logger.warning("%s is not there: the trials that were finished before did not leave it",
                       command.finetune.output_model_path)
    return keeper.records


def open_bench(command: Command, world: Any) -> Workbench:
    """The workbench of a command's task."""
    return Workbench.open(command.task_class, command.task_config, command.finetune, command.model, command.tokenizer,
                          world)


def _default_workers(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.device_count()
    return min(MOST_CPU_WORKERS, torch.get_num_threads())


def run_plan(bench: Workbench, command: Command, config: GridConfig, plan: Plan, fingerprints: dict[str, str],
             path: Path) -> dict[str, Any]:
    """One trial; its model lies beside the results file under its key until the keeper has decided."""
    began = time.monotonic()
    settings = dataclasses.replace(
        command.settings(plan.seed, bench.save_best_by), batch_size=plan.setting.batch_size,
        epochs_num=plan.setting.epochs_num, report_steps=10**9,
        optim=dataclasses.replace(command.optim, learning_rate=plan.setting.learning_rate))
    trial: Trial = bench.run(settings, quiet=True)
    if config.save_model:
        bench.save(str(_trial_model(path, plan.key)), trial.fit, settings)
    dev = trial.fit.metrics
    return {"key": plan.key, "seed": plan.seed, **dataclasses.asdict(plan.setting), "dev": dev,
            "test": trial.test_metrics, "best_epoch": trial.fit.epoch, "score": trial.score,
            "score_name": bench.save_best_by, "collapsed": dev.get("predicted_labels", 2) == 1,
            "seconds": round(time.monotonic() - began, 2), **fingerprints, "torch": torch.__version__}


def _trial_model(path: Path, key: str) -> Path:
    return path.with_name(f"{path.stem}.{key}.bin")


class _Keeper:
    """Writes each trial's line as it finishes, and keeps the best trial's model."""

    def __init__(self, command: Command, config: GridConfig, path: Path, finished: list[dict[str, Any]]) -> None:
        self.path, self.save_model = path, config.save_model
        self.output = command.finetune.output_model_path
        self.records = finished

    def take(self, record: dict[str, Any]) -> None:
        """A finished trial: its model first, so that a kill between the two leaves nothing that a line promises."""
        best = max((known["score"] for known in self.records), default=float("-inf"))
        if self.save_model:
            _move_model(_trial_model(self.path, record["key"]), self.output if record["score"] > best else None)
        append_lines(str(self.path), [record])
        self.records.append(record)
        logger.info("Trial %d: batch %d, rate %g, %d epochs, seed %d: dev %s %.4f%s (%.0f s)", len(self.records),
                    record["batch_size"], record["learning_rate"], record["epochs_num"], record["seed"],
                    record["score_name"], record["score"], ", ONE LABEL ONLY" if record["collapsed"] else "",
                    record["seconds"])


def _move_model(source: Path, destination: str | None) -> None:
    """The three files of a saved model to their final names, or away; its settings name the vocabulary's file."""
    names = [source, settings_path(source), vocab_path(source)]
    if destination is None:
        for name in names:
            name.unlink()
        return
    final = weights_path(destination)
    final.parent.mkdir(parents=True, exist_ok=True)
    settings = json.loads(names[1].read_text(encoding="utf-8"))
    settings["tokenizer"]["vocab_path"] = vocab_path(destination).name
    names[1].write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(names[2], vocab_path(destination))
    os.replace(names[1], settings_path(destination))
    os.replace(names[0], final)


def _run_in_workers(command: Command, config: GridConfig, plans: Sequence[Plan], fingerprints: dict[str, str],
                    path: Path, workers: int, keeper: _Keeper) -> None:
    """Hand the plans to worker processes; the first error ends them all."""
    # A fork costs no second import of torch, but CUDA does not survive it.
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    todo, done = context.Queue(), context.Queue()
    for plan in [*plans, *[None] * workers]:
        todo.put(plan)
    shared = (workers, command, config, fingerprints, path, todo, done)
    processes = [context.Process(target=_worker, args=(number, os.getpid(), *shared), daemon=True)
                 for number in range(workers)]
    for process in processes:
        process.start()
    try:
        for _ in plans:
            keeper.take(_next_record(done, processes))
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _next_record(done: Any, processes: list[Any]) -> dict[str, Any]:
    while True:
        try:
            outcome = done.get(timeout=1.0)
        except queue.Empty:
            dead = [process for process in processes if process.exitcode not in (None, 0)]
            if dead:
                raise UserError(f"a grid worker ended with status {dead[0].exitcode} (out of memory?); "
                                "--parallel_trials 1 runs one trial at a time") from None
            continue
        if isinstance(outcome, str):
            raise UserError(outcome)
        return outcome


def _leave_with(parent: int) -> None:
    """End this process once its parent is gone: nobody would write down what its trials come to."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _worker(number: int, parent: int, workers: int, command: Command, config: GridConfig, fingerprints: dict[str, str],
            path: Path, todo: Any, done: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent ends its workers
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    try:
        gpus = torch.cuda.device_count() if command.parallel.device != "cpu" else 0
        if not gpus:
            torch.set_num_threads(max(1, torch.get_num_threads() // workers))
        world = connect(Place(local_rank=number % gpus if gpus else 0), ParallelConfig(device=command.parallel.device))
        set_up_logging(dataclasses.replace(command.log, log_path=None, log_level="ERROR"), True)
        bench = open_bench(command, world)
        while (plan := todo.get()) is not None:
            done.put(run_plan(bench, command, config, plan, fingerprints, path))
    except UserError as error:
        done.put(str(error))
    except OSError as error:
        done.put(f"{error.filename or path.parent}: {error.strerror or error}")


def table(records: list[dict[str, Any]]) -> list[str]:
    """Lines of a table: one row a setting, the best first; with several seeds their median and spread."""
    rows = summarise(records)
    name = records[0]["score_name"]
    lines = [f"| batch | rate | epochs | dev {name} | spread | test {name} | |", "|---:|---:|---:|---:|---|---:|---|"]
    for place, row in enumerate(rows):
        spread = f"{row['low']:.4f} to {row['high']:.4f}" if row["seeds"] > 1 else ""
        test = "" if row["test"] is None else f"{row['test']:.4f}"
        notes = ["best"] * (place == 0) + ["collapsed to one label"] * row["collapsed"]
        lines.append(f"| {row['batch_size']} | {row['learning_rate']:g} | {row['epochs_num']} | {row['score']:.4f} | "
                     f"{spread} | {test} | {', '.join(notes)} |")
    return lines


def summarise(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a setting, over its seeds: median score, lowest and highest, median test figure; the best first."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["batch_size"], record["learning_rate"], record["epochs_num"]), []).append(record)
    rows = []
    for (batch, rate, epochs), group in groups.items():
        scores = [record["score"] for record in group]
        tests = [record["test"][record["score_name"]] for record in group if record["test"]]
        rows.append({"batch_size": batch, "learning_rate": rate, "epochs_num": epochs, "seeds": len(group),
                     "score": median(scores), "low": min(scores), "high": max(scores),
                     "test": median(tests) if tests else None,
                     "collapsed": any(record["collapsed"] for record in group)})
    return sorted(rows, key=lambda row: -row["score"])
