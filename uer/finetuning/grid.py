"""Runs every setting of a grid: trials share the data and run in worker processes; a stopped grid continues.

Every finished trial is one JSON line in the results file, written before the next begins. Its key is a hash of all that
decides its figures (data, pretrained weights, settings), so a line is used again only where it says the same thing.

Workers are processes, each with its own model on a device of its own (or a share of one): Python's lock lets CUDA
streams of one process launch only one trial's kernels at a time, and on CPUs a small model is faster on one core than
on several. The parent keeps the best model seen so far and removes the others.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from uer.config import ParallelConfig
from uer.errors import UserError
from uer.files import prepare_file
from uer.finetuning.command import LOGGER, PREFIX, Command, decides, open_trials, prepare_output
from uer.finetuning.config import GridConfig
from uer.finetuning.grid_keeper import Keeper, clear_away, kept_trial, move_model, trial_model
from uer.finetuning.grid_plan import Plan, plan_of, settings_of
from uer.finetuning.grid_results import read_results
from uer.finetuning.loop import Diverged
from uer.finetuning.paths import grid_results_path, weights_path
from uer.finetuning.trials import Trials
from uer.runtime.failures import as_user_errors
from uer.runtime.launch import RankInfo
from uer.runtime.lock import OutputLock
from uer.runtime.logs import set_up_logging
from uer.runtime.parallel import connect
from uer.runtime.processes import run_jobs
from uer.runtime.threads import usable_cores
from uer.text import amount

logger = logging.getLogger("uer.finetuning")

MOST_CPU_WORKERS = 4
CPU_THREADS = usable_cores()  # of this machine, or as OMP_NUM_THREADS says


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
    set_up_logging(command.log, LOGGER, PREFIX)
    path = Path(config.results_path or grid_results_path(command.finetune.output_model_path))
    output = command.finetune.output_model_path if config.save_model else None
    with contextlib.ExitStack() as stack:
        if run:
            _hold_outputs(stack, command, config, path)
            stack.callback(clear_away, path, output)
        trainings = open_trials(command, world)
        shared = decides(command, trainings)
        seeds = command.finetune.seeds or (command.finetune.seed,)
        plans = [plan_of(setting, seed, shared) for setting in settings_of(config) for seed in seeds]
        if not run:
            results = read_results(path)
            return [results[plan.key] for plan in plans if plan.key in results]
        clear_away(path, output)
        return _run_missing(trainings, command, config, plans, path)


def _hold_outputs(stack: contextlib.ExitStack, command: Command, config: GridConfig, path: Path) -> None:
    """Lock the results file and the model until `stack` ends, so that no other command writes them."""
    prepare_file(path, "--results_path")
    try:
        stack.enter_context(OutputLock(path))
    except UserError:
        raise UserError(f"{path}: another grid is writing there") from None
    if config.save_model:
        stack.enter_context(OutputLock(weights_path(command.finetune.output_model_path)))


def _run_missing(trainings: Trials, command: Command, config: GridConfig, plans: Sequence[Plan],
                 path: Path) -> list[dict[str, Any]]:
    """Run the trials that the results file lacks; the records of all, in the grid's order."""
    _set_threads(trainings.world.device)
    results = read_results(path)
    keeper = Keeper(command, config, path, plans, results)
    waiting = _waiting(plans, results)
    logger.info("%s, %d of them finished before (%s)", amount(len(plans), "trial"), len(keeper.records), path)
    workers = min(len(waiting), config.parallel_trials or _default_workers(trainings.world.device))
    keeper.workers = max(1, workers)
    if workers <= 1:
        for plan in waiting:
            keeper.take(run_plan(trainings, command, config, plan))
    else:
        start_worker = partial(_start_worker, command, config)
        for _, record in run_jobs(waiting, start_worker, workers, has_cuda=torch.cuda.is_available(),
                                  finish_earlier=False, advice="--parallel_trials 1 runs one trial at a time"):
            keeper.take(record)
    _restore_best(trainings, command, config, plans, keeper)
    return keeper.in_order()


def _waiting(plans: Sequence[Plan], results: dict[str, dict[str, Any]]) -> list[Plan]:
    """The trials that have to be run; a function of its own, so that a test can change their order."""
    return [plan for plan in plans if plan.key not in results]


def _restore_best(trainings: Trials, command: Command, config: GridConfig, plans: Sequence[Plan],
                  keeper: Keeper) -> None:
    """See that the best trial's model is at the output; where it is not, run that trial once more."""
    best, output = keeper.best(), command.finetune.output_model_path
    if not config.save_model or best is None or kept_trial(output) == best["key"]:
        return
    logger.info("The model of the best trial is not at %s: it is trained once more", output)
    plan = next(plan for plan in plans if plan.key == best["key"])
    run_plan(trainings, command, config, plan)
    move_model(trial_model(output, plan.key), output)


def _default_workers(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.device_count()
    return min(MOST_CPU_WORKERS, CPU_THREADS)


def _set_threads(device: torch.device) -> None:
    """Every trial on a CPU computes with the same number of threads, however many trials run at once: sums of floats
    depend on it, and the model that is kept must not depend on --parallel_trials."""
    if device.type == "cpu":
        torch.set_num_threads(max(1, CPU_THREADS // min(MOST_CPU_WORKERS, CPU_THREADS)))


@as_user_errors()
def run_plan(trainings: Trials, command: Command, config: GridConfig, plan: Plan) -> dict[str, Any]:
    """One trial; its model is saved beside the best one under its key until the keeper has compared it.

    A trial that diverges has a record without figures: the grid goes on, and its model is never kept.
    """
    began = time.monotonic()
    settings = dataclasses.replace(
        command.settings(plan.seed, trainings.save_best_by), batch_size=plan.setting.batch_size,
        epochs_num=plan.setting.epochs_num, report_steps=10**9,
        optim=dataclasses.replace(command.optim, learning_rate=plan.setting.learning_rate))
    record = {"key": plan.key, "seed": plan.seed, **dataclasses.asdict(plan.setting), "dev": None, "test": None,
              "best_epoch": None, "score": None, "score_name": trainings.save_best_by, "collapsed": False,
              "diverged": True}
    try:
        trial = trainings.run(settings, quiet=True)
        dev = trial.fit.metrics
        record |= {"dev": dev, "test": trial.test_metrics, "best_epoch": trial.fit.epoch, "score": trial.score,
                   "collapsed": dev.get("predicted_labels", 2) == 1, "diverged": False}
        if config.save_model:
            trainings.save(str(trial_model(command.finetune.output_model_path, plan.key)), trial.fit, settings,
                           trial=plan.key)
    except Diverged:
        pass
    return {**record, "seconds": round(time.monotonic() - began, 2), **trainings.fingerprints,
            "torch": torch.__version__}


def _start_worker(command: Command, config: GridConfig, number: int) -> Callable[[Plan], dict[str, Any]]:
    """In a worker process: load what all trials share; returns the function that runs one of them."""
    gpus = torch.cuda.device_count() if command.parallel.device != "cpu" else 0
    local_rank = number % gpus if gpus else 0
    world = connect(RankInfo(local_rank=local_rank), ParallelConfig(device=command.parallel.device))
    _set_threads(world.device)
    set_up_logging(dataclasses.replace(command.log, log_path=None, log_level="ERROR"), LOGGER, PREFIX)
    return partial(run_plan, open_trials(command, world), command, config)
