"""The fine-tuning command of every task: read the flags, start the ranks, train each seed, report the best."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from uer import model_settings
from uer.config import LogConfig, ModelConfig, OptimConfig, ParallelConfig, TokenizerConfig
from uer.errors import UserError
from uer.files import prepare_file
from uer.finetuning.config import AdversarialConfig, FinetuneConfig
from uer.finetuning.loop import Fit, FitSettings, describe
from uer.finetuning.saved import settings_path, vocab_path, weights_path
from uer.finetuning.task import Task
from uer.finetuning.workbench import Trial, Workbench
from uer.training import launch
from uer.training.parallel import connect

logger = logging.getLogger("uer.finetuning")

SHARED_SECTIONS = (ModelConfig, TokenizerConfig, OptimConfig, AdversarialConfig, LogConfig, ParallelConfig)


@dataclass(frozen=True)
class Command:
    """A fine-tuning command's settings, one field for each config class."""

    task_class: type[Task]
    finetune: FinetuneConfig
    model: ModelConfig
    tokenizer: TokenizerConfig
    optim: OptimConfig
    adversarial: AdversarialConfig
    log: LogConfig
    parallel: ParallelConfig
    task_config: Any = None

    def settings(self, seed: int, save_best_by: str) -> FitSettings:
        """How the model of one seed is trained."""
        config = self.finetune
        return FitSettings(config.batch_size, config.epochs_num, seed, config.report_steps, config.early_stop,
                           save_best_by, self.optim, self.adversarial)


def parse_command(description: str, task_class: type[Task], argv: Sequence[str] | None = None) -> Command:
    """The command line of a task's fine-tuning script."""
    return parse_with(description, task_class, (), argv)[0]


def parse_with(description: str, task_class: type[Task], more: Sequence[type], argv: Sequence[str] | None = None,
               finetune_class: type[FinetuneConfig] = FinetuneConfig) -> tuple[Command, list[Any]]:
    """The command line of a script that has the flags of `more` as well."""
    own = (task_class.config_class,) if task_class.config_class else ()
    parts = model_settings.parse(description, (finetune_class, *SHARED_SECTIONS, *own, *more), argv)
    command = Command(task_class, *parts[:len(parts) - len(more)])
    if command.parallel.sharding != "none" or command.parallel.activation_checkpointing:
        raise UserError("--sharding and --activation_checkpointing are for pretraining; fine-tuning keeps the whole "
                        "model on each rank")
    if task_class.whole_batch and (command.parallel.world_size > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1):
        raise UserError(f"--world_size: the task '{task_class.name}' compares the rows of a whole batch; use one rank")
    if command.log.tensorboard_dir:
        raise UserError("--tensorboard_dir is for pretraining; --metrics_path writes fine-tuning's figures")
    return command, parts[len(parts) - len(more):]


def finetune(description: str, task_class: type[Task], argv: Sequence[str] | None = None) -> None:
    """The whole script of a task."""
    command = parse_command(description, task_class, argv)
    status = launch.run(launch.places(command.parallel), _rank, command)
    if status:
        sys.exit(status)


class _LogFile(logging.FileHandler):
    """A log that cannot be written to, as on a full disk, ends the run with one line."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise UserError(f"--log_path {self.baseFilename}: {error.strerror}") from None
        super().handleError(record)


def set_up_logging(config: LogConfig, is_main: bool) -> None:
    """Lines to the terminal and to --log_path; other ranks than the first say nothing."""
    root = logging.getLogger("uer.finetuning")
    root.handlers.clear()
    root.propagate = False
    root.setLevel(logging.DEBUG if is_main else logging.CRITICAL)
    targets: list[tuple[logging.Handler, str]] = [(logging.StreamHandler(sys.stdout), config.log_level)]
    if config.log_path and is_main:
        targets.append((_LogFile(config.log_path, encoding="utf-8"), config.log_file_level))
    for handler, level in targets:
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%Y-%m-%d %H:%M:%S"))
        handler.setLevel(level)
        root.addHandler(handler)


def _rank(place: launch.Place, command: Command) -> int:
    world = connect(place, command.parallel)
    if world.world_size > 1 and world.device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // world.world_size))
    world.check(lambda: prepare_output(command) if world.is_main else None)
    set_up_logging(command.log, world.is_main)
    bench = world.check(lambda: Workbench.open(command.task_class, command.task_config, command.finetune, command.model,
                                               command.tokenizer, world))
    describe_data(bench)
    trials: list[Trial] = []
    for seed in command.finetune.seeds or (command.finetune.seed,):
        settings = command.settings(seed, bench.save_best_by)
        before = max((trial.score for trial in trials), default=float("-inf"))

        def save(fitted: Fit, settings: FitSettings = settings, before: float = before) -> None:
            if fitted.metrics[settings.save_best_by] > before:
                bench.save(command.finetune.output_model_path, fitted, settings)

        trials.append(bench.run(settings, save))
        if world.is_main and command.log.metrics_path:
            append_lines(command.log.metrics_path, trial_lines(trials[-1]))
    report(bench, trials, command.finetune.output_model_path)
    world.close()
    return 0


def inputs_of(command: Command) -> tuple[str | None, ...]:
    """The files that a command reads and must not write."""
    config = command.finetune
    return config.train_path, config.dev_path, config.test_path, config.pretrained_model_path


def prepare_output(command: Command) -> None:
    """What cannot be written must not be found out after the training."""
    log, inputs = command.log, inputs_of(command)
    for of_model in (weights_path, settings_path, vocab_path):
        prepare_file(of_model(command.finetune.output_model_path), "--output_model_path", inputs)
    for path, flag in ((log.metrics_path, "--metrics_path"), (log.log_path, "--log_path")):
        if path:
            prepare_file(path, flag, inputs)


def describe_data(bench: Workbench) -> None:
    """One line for each file, so that nothing is left out in silence."""
    for name, examples in (("train", bench.train), ("dev", bench.dev), ("test", bench.test)):
        if examples is None:
            continue
        skipped = "".join(f", {count} {what} left out" for what, count in examples.skipped.items() if count)
        cut = int((examples.lengths >= bench.encoder.seq_length).sum())
        logger.info("%s: %d examples%s, %d reach --seq_length, hash %s", name, len(examples), skipped, cut,
                    examples.hash[:12])


def report(bench: Workbench, trials: list[Trial], path: str) -> None:
    """What the best trial does on dev and test, and how much seeds matter."""
    best = max(trials, key=lambda trial: trial.score)
    logger.info("Best: seed %d, epoch %d; the model is at %s", best.settings.seed, best.fit.epoch, path)
    for name, outputs, metrics, examples in (("Dev", best.dev_outputs, best.fit.metrics, bench.dev),
                                             ("Test", best.test_outputs, best.test_metrics, bench.test)):
        if outputs is None:
            continue
        logger.info("%s set evaluation: %s", name, describe(metrics))
        if metrics.get("predicted_labels") == 1:
            logger.warning("Every prediction is the same label: the model has learned nothing else")
        for line in bench.task.report(outputs, examples):
            logger.info(line)
    if len(trials) > 1:
        for name, scores in (("dev", [trial.score for trial in trials]),
                             ("test", [trial.test_metrics[bench.save_best_by] for trial in trials
                                       if trial.test_metrics])):
            if scores:
                logger.info("%d seeds, %s %s: %s", len(trials), name, bench.save_best_by, spread(scores))


def spread(scores: Sequence[float]) -> str:
    """`median 0.9137, 0.9100 to 0.9150`"""
    return f"median {median(scores):.4f}, {min(scores):.4f} to {max(scores):.4f}"


def trial_lines(trial: Trial) -> list[dict[str, Any]]:
    """One record for each evaluation of a trial."""
    shared = {"seed": trial.settings.seed, "batch_size": trial.settings.batch_size,
              "learning_rate": trial.settings.optim.learning_rate, "epochs_num": trial.settings.epochs_num}
    lines = [{**shared, "set": "dev", **entry} for entry in trial.fit.history]
    if trial.test_metrics is not None:
        lines.append({**shared, "set": "test", "epoch": trial.fit.epoch, **trial.test_metrics})
    return lines


def append_lines(path: str, records: Sequence[dict[str, Any]]) -> None:
    """Append JSON lines.

    Raises:
        UserError: they cannot be written, as where the disk is full.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
