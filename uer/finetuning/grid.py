"""All settings of a grid on shared data: trials run at once in worker processes, and a stopped grid goes on.

Every finished trial is one JSON line in the results file, written before the next begins. Its key is a hash of all that
decides its figures (data, pretrained weights, settings), so a line is used again only where it says the same thing.

Workers are processes, each with its own model on a device of its own (or a share of one): Python's lock lets CUDA
streams of one process launch only one trial's kernels at a time, and on CPUs a small model is faster on one core than
on several. The parent keeps the best model seen so far and removes the others.
"""

import dataclasses
import glob
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
from typing import Any

import torch

from uer.config import ParallelConfig
from uer.errors import UserError
from uer.files import TEMPORARY_ENDING, prepare_file
from uer.finetuning.command import Command, append_lines, decides, prepare_output, set_up_logging
from uer.finetuning.config import GridConfig
from uer.finetuning.grid_results import read_results
from uer.finetuning.loop import Diverged
from uer.finetuning.paths import grid_results_path, settings_path, vocab_path, weights_path
from uer.finetuning.progress import seconds_text
from uer.finetuning.rows import content_hash
from uer.finetuning.trials import Trials
from uer.json_files import json_text, read_json_object
from uer.runtime.launch import RankInfo
from uer.runtime.lock import OutputLock
from uer.runtime.parallel import connect
from uer.training.report import duration

logger = logging.getLogger("uer.finetuning")

MOST_CPU_WORKERS = 4
CPU_THREADS = torch.get_num_threads()  # of this machine, or as OMP_NUM_THREADS says
# What a trial's files are called behind the results file's name: its key, and perhaps the name of a file half written.
TRIAL_FILE = rf"\.[0-9a-f]{{16}}\.(bin|json|vocab\.txt)({TEMPORARY_ENDING})?$"


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
    """The grid's points, longest trainings first, so that the last trials to finish are short; then by batch size and
    rate, so that the order does not depend on how the lists are written."""
    points = product(config.epochs_num_list, config.batch_size_list, config.learning_rate_list)
    unique = dict.fromkeys(Setting(batch, rate, epochs) for epochs, batch, rate in points)
    return sorted(unique, key=lambda setting: (-setting.epochs_num, setting.batch_size, setting.learning_rate))


def plan_of(setting: Setting, seed: int, shared: dict[str, Any]) -> Plan:
    """The trial of a setting and a seed; its key covers everything that decides its figures (see `decides`)."""
    return Plan(setting, seed, content_hash({**shared, **dataclasses.asdict(setting), "seed": seed})[:16])


def results_path(command: Command, config: GridConfig) -> Path:
    """Where the trials' lines are kept."""
    return Path(config.results_path or grid_results_path(command.finetune.output_model_path))


def _clear_away(path: Path) -> None:
    """Remove what a stopped grid leaves behind: a last line cut short, and the models of trials under way."""
    if path.exists():
        unfinished = path.read_bytes().rpartition(b"\n")[2]
        os.truncate(path, path.stat().st_size - len(unfinished))
    for file in path.parent.glob(f"{glob.escape(path.stem)}.*"):
        if re.match(TRIAL_FILE, file.name.removeprefix(path.stem)):
            file.unlink()


def run_grid(command: Command, config: GridConfig, run: bool = True) -> list[dict[str, Any]]:
    """Run every trial that the results file lacks; returns the records of all trials of this grid.

    Args:
        run: False only collects what is there.
    """
    if command.parallel.world_size > 1:
        raise UserError("--world_size: the grid runs whole trials beside one another; --parallel_trials says how many")
    for flag in ("metrics_path", "tensorboard_dir", "wandb_project"):
        if getattr(command.log, flag):
            raise UserError(f"--{flag}: the grid writes its JSON lines to --results_path")
    if command.finetune.resume != "auto":
        raise UserError("--resume: a grid goes on from --results_path; name another file to start anew")
    world = connect(RankInfo(), ParallelConfig(device=command.parallel.device))
    prepare_output(command)
    set_up_logging(command.log, True)
    path = results_path(command, config)
    locks = [] if not run else _locks(command, config, path)
    try:
        bench = open_bench(command, world)
        shared = decides(command, bench)
        seeds = command.finetune.seeds or (command.finetune.seed,)
        plans = [plan_of(setting, seed, shared) for setting in settings_of(config) for seed in seeds]
        if not run:
            results = read_results(path)
            return [results[plan.key] for plan in plans if plan.key in results]
        return _run_missing(bench, command, config, plans, path)
    finally:
        if run:
            _clear_away(path)
        for lock in locks:
            lock.release()


def _locks(command: Command, config: GridConfig, path: Path) -> list[OutputLock]:
    """Nobody else writes these trials' lines, or the model that is kept."""
    prepare_file(path, "--results_path")
    locks = [_lock(path)]
    try:
        if config.save_model:
            locks.append(OutputLock(weights_path(command.finetune.output_model_path)))
    except UserError:
        locks[0].release()
        raise
    return locks


def _lock(path: Path) -> OutputLock:
    try:
        return OutputLock(path)
    except UserError:
        raise UserError(f"{path}: another grid is writing there") from None


def _run_missing(bench: Trials, command: Command, config: GridConfig, plans: Sequence[Plan],
                 path: Path) -> list[dict[str, Any]]:
    """Run the trials that the results file lacks; the records of all, in the grid's order."""
    _clear_away(path)
    _set_threads(bench.world.device)
    results = read_results(path)
    keeper = _Keeper(command, config, path, plans, results)
    waiting = _waiting(plans, results)
    logger.info("%d trials, %d of them finished before (%s)", len(plans), len(keeper.records), path)
    workers = min(len(waiting), config.parallel_trials or _default_workers(bench.world.device))
    keeper.workers = max(1, workers)
    if workers <= 1:
        for plan in waiting:
            keeper.take(run_plan(bench, command, config, plan, path))
    else:
        _run_in_workers(command, config, waiting, path, workers, keeper)
    _restore_best(bench, command, config, plans, path, keeper)
    return keeper.in_order()


def _waiting(plans: Sequence[Plan], results: dict[str, dict[str, Any]]) -> list[Plan]:
    """The trials that have to be run."""
    return [plan for plan in plans if plan.key not in results]


def _restore_best(bench: Trials, command: Command, config: GridConfig, plans: Sequence[Plan], path: Path,
                  keeper: "_Keeper") -> None:
    """The best trial's model is at the output, whatever was there: where it is not, that trial is run once more."""
    best = keeper.best()
    if not config.save_model or best is None or _kept_trial(command.finetune.output_model_path) == best["key"]:
        return
    logger.info("The model of the best trial is not at %s: it is trained once more", command.finetune.output_model_path)
    plan = next(plan for plan in plans if plan.key == best["key"])
    run_plan(bench, command, config, plan, path)
    _move_model(_trial_model(path, plan.key), command.finetune.output_model_path)


def _kept_trial(output: str) -> str | None:
    """The key of the trial whose model is at `output`; None where there is none, or not all of its files."""
    if not weights_path(output).exists() or not vocab_path(output).exists():
        return None
    try:
        return read_json_object(settings_path(output))["training"]["trial"]
    except (UserError, KeyError, TypeError):
        return None


def open_bench(command: Command, world: Any) -> Trials:
    """The workbench of a command's task."""
    return Trials.open(command.task_class, command.task_config, command.finetune, command.model, command.tokenizer,
                          world)


def _default_workers(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.device_count()
    return min(MOST_CPU_WORKERS, CPU_THREADS)


def _set_threads(device: torch.device) -> None:
    """Every trial on a CPU computes with the same number of threads, however many trials run at once: sums of floats
    depend on it, and the kept model must not."""
    if device.type == "cpu":
        torch.set_num_threads(max(1, CPU_THREADS // min(MOST_CPU_WORKERS, CPU_THREADS)))


def run_plan(bench: Trials, command: Command, config: GridConfig, plan: Plan, path: Path) -> dict[str, Any]:
    """One trial; its model lies beside the results file under its key until the keeper has decided.

    A trial that diverges has a record without figures: the grid goes on, and its model is never kept.
    """
    began = time.monotonic()
    settings = dataclasses.replace(
        command.settings(plan.seed, bench.save_best_by), batch_size=plan.setting.batch_size,
        epochs_num=plan.setting.epochs_num, report_steps=10**9,
        optim=dataclasses.replace(command.optim, learning_rate=plan.setting.learning_rate))
    record = {"key": plan.key, "seed": plan.seed, **dataclasses.asdict(plan.setting), "dev": None, "test": None,
              "best_epoch": None, "score": None, "score_name": bench.save_best_by, "collapsed": False,
              "diverged": True}
    try:
        trial = bench.run(settings, quiet=True)
        dev = trial.fit.metrics
        record |= {"dev": dev, "test": trial.test_metrics, "best_epoch": trial.fit.epoch, "score": trial.score,
                   "collapsed": dev.get("predicted_labels", 2) == 1, "diverged": False}
        if config.save_model:
            bench.save(str(_trial_model(path, plan.key)), trial.fit, settings, trial=plan.key)
    except Diverged:
        pass
    return {**record, "seconds": round(time.monotonic() - began, 2), **bench.fingerprints,
            "torch": torch.__version__}


def _trial_model(path: Path, key: str) -> Path:
    return path.with_name(f"{path.stem}.{key}.bin")


class _Keeper:
    """Writes each trial's line as it finishes, and keeps the best trial's model.

    The best has the highest score; of equals it is the first in the grid's order (longest trainings first, then small
    batches, then low rates, then --seeds as given), whichever finishes first.
    """

    def __init__(self, command: Command, config: GridConfig, path: Path, plans: Sequence[Plan],
                 finished: dict[str, dict[str, Any]]) -> None:
        self.path, self.save_model, self.workers = path, config.save_model, 1
        self.output = command.finetune.output_model_path
        self.order = {plan.key: number for number, plan in enumerate(plans)}
        self.records = [finished[plan.key] for plan in plans if plan.key in finished]
        self._epochs_left = sum(plan.setting.epochs_num for plan in plans if plan.key not in finished)
        self._epochs_done, self._seconds = 0, 0.0

    def best(self) -> dict[str, Any] | None:
        """The best of the finished trials; None while none has a score."""
        scored = [record for record in self.records if record["score"] is not None]
        return min(scored, key=self._place, default=None)

    def in_order(self) -> list[dict[str, Any]]:
        """All records in the grid's order."""
        return sorted(self.records, key=lambda record: self.order[record["key"]])

    def _place(self, record: dict[str, Any]) -> tuple[float, int]:
        return -record["score"], self.order[record["key"]]

    def take(self, record: dict[str, Any]) -> None:
        """A finished trial: its model first, so that a kill between the two leaves nothing that a line promises."""
        best = self.best()
        if self.save_model and not record["diverged"]:
            is_best = best is None or self._place(record) < self._place(best)
            _move_model(_trial_model(self.path, record["key"]), self.output if is_best else None)
        append_lines(str(self.path), [record])
        self.records.append(record)
        outcome = "DIVERGED (loss or weights not finite)" if record["diverged"] else (
            f"dev {record['score_name']} {record['score']:.4f}{', ONE LABEL ONLY' if record['collapsed'] else ''}")
        logger.info("Trial %d of %d: batch %d, rate %g, %d epochs, seed %d: %s (%s), %s left", len(self.records),
                    len(self.order), record["batch_size"], record["learning_rate"], record["epochs_num"],
                    record["seed"], outcome, seconds_text(record["seconds"]), duration(self._seconds_left(record)))

    def _seconds_left(self, record: dict[str, Any]) -> float:
        """By the mean seconds of an epoch in the trials so far."""
        self._epochs_done += record["epochs_num"]
        self._seconds += record["seconds"]
        self._epochs_left -= record["epochs_num"]
        return self._epochs_left * self._seconds / self._epochs_done / self.workers


def _move_model(source: Path, destination: str | None) -> None:
    """The three files of a saved model to their final names, or away; its settings name the vocabulary's file."""
    names = [source, settings_path(source), vocab_path(source)]
    if destination is None:
        for name in names:
            name.unlink()
        return
    final = weights_path(destination)
    final.parent.mkdir(parents=True, exist_ok=True)
    settings = read_json_object(names[1])
    settings["tokenizer"]["vocab_path"] = vocab_path(destination).name
    names[1].write_text(json_text(settings, indent=2) + "\n", encoding="utf-8")
    os.replace(names[2], vocab_path(destination))
    os.replace(names[1], settings_path(destination))
    os.replace(names[0], final)


def _run_in_workers(command: Command, config: GridConfig, plans: Sequence[Plan], path: Path, workers: int,
                    keeper: _Keeper) -> None:
    """Hand the plans to worker processes; the first error ends them all."""
    # A fork costs no second import of torch, but CUDA does not survive it.
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    todo, done = context.Queue(), context.Queue()
    for plan in [*plans, *[None] * workers]:
        todo.put(plan)
    shared = (command, config, path, todo, done)
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


def _worker(number: int, parent: int, command: Command, config: GridConfig, path: Path, todo: Any, done: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent ends its workers
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    try:
        gpus = torch.cuda.device_count() if command.parallel.device != "cpu" else 0
        world = connect(RankInfo(local_rank=number % gpus if gpus else 0), ParallelConfig(device=command.parallel.device))
        _set_threads(world.device)
        set_up_logging(dataclasses.replace(command.log, log_path=None, log_level="ERROR"), True)
        bench = open_bench(command, world)
        while (plan := todo.get()) is not None:
            done.put(run_plan(bench, command, config, plan, path))
    except UserError as error:
        done.put(str(error))
    except OSError as error:
        done.put(f"{error.filename or path.parent}: {error.strerror or error}")
