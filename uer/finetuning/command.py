"""The fine-tuning command of every task: read the flags, start the ranks, train each seed, report the best."""

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from uer import model_settings
from uer.config import (
    LogConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    TokenizerConfig,
    model_identity,
    optim_identity,
)
from uer.errors import UserError
from uer.files import prepare_file
from uer.finetuning.config import AdversarialConfig, FinetuneConfig
from uer.finetuning.loop import Fit, FitSettings, Trial
from uer.finetuning.paths import settings_path, state_path, vocab_path, weights_path
from uer.finetuning.progress import Progress, describe
from uer.finetuning.resume import TrainingState, TrialState
from uer.finetuning.rows import content_hash
from uer.finetuning.saved_model import pretrained_hash
from uer.finetuning.task import Task
from uer.finetuning.trials import Trials
from uer.runtime import launch
from uer.runtime.lock import OutputLock
from uer.runtime.logs import set_up_logging
from uer.runtime.metrics_writer import MetricsWriter
from uer.runtime.parallel import World, connect
from uer.text import amount

LOGGER = "uer.finetuning"
PREFIX = "[%(asctime)s]"  # of every line
logger = logging.getLogger(LOGGER)

SHARED_SECTIONS = (ModelConfig, TokenizerConfig, OptimConfig, AdversarialConfig, LogConfig, ParallelConfig,
                   LoraConfig)

# Part of what a training's figures are known by: another number where the same settings train another model.
RESULTS_VERSION = 2


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
    lora: LoraConfig
    task_config: Any = None

    def settings(self, seed: int, save_best_by: str) -> FitSettings:
        """How the model of one seed is trained."""
        config = self.finetune
        return FitSettings(config.batch_size, config.epochs_num, seed, config.report_steps, config.early_stop,
                           save_best_by, self.optim, self.adversarial)


def parse_command(description: str, task_class: type[Task], argv: Sequence[str] | None = None) -> Command:
    """The command line of a task's fine-tuning script."""
    return parse_with(description, task_class, (), argv, task_class.finetune_class)[0]


def parse_with(description: str, task_class: type[Task], more: Sequence[type], argv: Sequence[str] | None = None,
               finetune_class: type[FinetuneConfig] = FinetuneConfig) -> tuple[Command, list[Any]]:
    """The command line of a script that has the flags of `more` as well."""
    own = (task_class.config_class,) if task_class.config_class else ()
    parts = model_settings.parse(description, (finetune_class, *SHARED_SECTIONS, *own, *more), argv)
    command = Command(task_class, *parts[:len(parts) - len(more)])
    if command.parallel.sharding != "none" or command.parallel.activation_checkpointing != "off":
        raise UserError("--sharding and --activation_checkpointing are for pretraining; fine-tuning keeps the whole "
                        "model on each rank")
    if command.parallel.tensor_parallel_size > 1:
        raise UserError("--tensor_parallel_size is for pretraining")
    if command.parallel.gradient_compression != "none":
        raise UserError("--gradient_compression is for pretraining")
    if command.lora.use_lora and not command.finetune.pretrained_model_path:
        raise UserError("--use_lora needs --pretrained_model_path: a model of random weights is not worth freezing")
    if command.lora.use_lora and command.adversarial.use_adv:
        raise UserError("--use_adv moves the word embedding by its gradient, which --use_lora does not compute")
    return command, parts[len(parts) - len(more):]


def finetune(description: str, task_class: type[Task], argv: Sequence[str] | None = None) -> None:
    """The whole script of a task."""
    run_ranks(_rank, parse_command(description, task_class, argv))


def run_ranks(rank: Callable[[launch.RankInfo, Command], int], command: Command) -> None:
    """Run `rank(rank_info, command)` in every rank of this machine; exits where one fails."""
    status = launch.run(launch.local_ranks(command.parallel), rank, command)
    if status:
        sys.exit(status)


@contextmanager
def outputs_of(command: Command, world: World, prepare: Callable[[], None]) -> Iterator[MetricsWriter | None]:
    """Everything that the command writes, opened and locked before any work; the writer is the main rank's alone.

    Args:
        prepare: sees that the files can be written.

    Raises:
        UserError: a file cannot be written, another run writes the same model, or a package is missing.
    """
    weights = weights_path(command.finetune.output_model_path)
    with ExitStack() as stack:
        world.check(lambda: prepare() if world.is_main else None)
        world.check(lambda: stack.enter_context(OutputLock(weights)) if world.is_main else None)
        set_up_logging(command.log, LOGGER, PREFIX, world.is_main)
        yield world.check(lambda: stack.enter_context(closing(MetricsWriter(command.log))) if world.is_main else None)


def open_trials(command: Command, world: World) -> Trials:
    """What the trainings of a command share; every rank has to call."""
    return world.check(lambda: Trials.open(command.task_class, command.task_config, command.finetune, command.model,
                                           command.tokenizer, world, command.lora))


@contextmanager
def opened(rank_info: launch.RankInfo, command: Command, prepare: Callable[[Command], None],
           **identity: Any) -> Iterator[tuple[Trials, TrainingState, MetricsWriter | None]]:
    """Everything that a rank trains with, from the process group to the training state; closed when the block ends
    well, and then the state is removed: there is nothing to go on with.

    Args:
        prepare: see `outputs_of`.
        identity: see `open_state`.
    """
    world = connect(rank_info, command.parallel)
    with outputs_of(command, world, lambda: prepare(command)) as writer:
        trials = open_trials(command, world)
        describe_data(trials)
        state = open_state(command, trials, **identity)
        yield trials, state, writer
        state.remove()
    world.close()


def _rank(rank_info: launch.RankInfo, command: Command) -> int:
    with opened(rank_info, command, prepare_output) as (trainings, state, writer):
        report(trainings, run_seeds(command, trainings, state, writer), command.finetune.output_model_path)
    return 0


def run_seeds(command: Command, trainings: Trials, state: TrainingState, writer: MetricsWriter | None) -> list[Trial]:
    """One training for each seed; the model of the best, the earliest of equals in the order of --seeds, is saved."""
    trials: list[Trial] = []
    seeds = command.finetune.seeds or (command.finetune.seed,)
    for number, seed in enumerate(seeds, start=1):
        settings = command.settings(seed, trainings.save_best_by)
        before = max((trial.score for trial in trials), default=float("-inf"))
        if len(seeds) > 1:
            logger.info("Seed %d (%d of %d)", seed, number, len(seeds))

        def save(fitted: Fit, settings: FitSettings = settings, before: float = before) -> None:
            if fitted.metrics[settings.save_best_by] > before:
                trainings.save(command.finetune.output_model_path, fitted, settings)

        trials.append(run_trial(trainings, settings, f"seed {seed}", save, state, writer, len(seeds) - number,
                                tag=f"seed_{seed}/" if len(seeds) > 1 else ""))
    return trials


def run_trial(trainings: Trials, settings: FitSettings, name: str, save: Callable[[Fit], None], state: TrainingState,
              writer: MetricsWriter | None, trials_left: int, tag: str = "",
              facts: Mapping[str, Any] | None = None) -> Trial:
    """One training, from the state where it is finished or begun there; without its weights, which `save` has saved.

    Args:
        name: what the state calls it.
        trials_left: how many trainings follow.
        tag: see `Progress`.
        facts: what its lines in --metrics_path say beside its settings.
    """
    finished = state.trial(name, settings)
    if finished is not None:
        logger.info("Finished before: %s, dev %s", name, describe(finished.fit.metrics))
        return finished
    facts = {**(facts or {}), "seed": settings.seed, "batch_size": settings.batch_size,
             "peak_learning_rate": settings.optim.learning_rate, "epochs_num": settings.epochs_num}
    progress = Progress(trainings.world, writer, facts, tag, trials_left)
    trial = trainings.run(settings, save, progress=progress, kept=TrialState(state, name))
    if trial.test_metrics is not None:
        progress.tested(trial.fit.epoch, trial.test_metrics)
    state.finish(name, trial)
    trial.fit.state, trial.fit.frozen = {}, {}  # saved by now; those of many trainings would fill the memory
    return trial


def decides(command: Command, trainings: Trials) -> dict[str, Any]:
    """What decides the figures of a training, but its seed, batch size, learning rate and number of epochs."""
    config = command.finetune
    return {"version": RESULTS_VERSION, "task": command.task_class.name, **trainings.fingerprints,
            "seq_length": config.seq_length, "truncation": config.truncation, "early_stop": config.early_stop,
            "save_best_by": config.save_best_by, "precision": config.precision,
            "tokenizer": trainings.encoder.tokenizer.settings, "columns": config.columns,
            "model": model_identity(command.model),
            "adversarial": dataclasses.asdict(command.adversarial),
            "optim": {**optim_identity(command.optim), "learning_rate": None},
            "task_config": command.task_config and dataclasses.asdict(command.task_config),
            **({"lora": _lora_identity(command.lora)} if command.lora.use_lora else {}),
            # `auto` is the machine's affair, as its device is
            **({"compile": "on"} if config.compile == "on" else {})}


def _lora_identity(lora: LoraConfig) -> dict[str, Any]:
    path = lora.lora_pretrained_model_path
    return {**lora.values(), "pretrained_hash": pretrained_hash(path) if path else None}


def open_state(command: Command, trainings: Trials, **more: Any) -> TrainingState:
    """The training state beside the output.

    Args:
        more: what decides the results of this command beside the settings of all.
    """
    config, world = command.finetune, trainings.world
    identity = content_hash({**decides(command, trainings), **more, "batch_size": config.batch_size,
                             "seed": config.seed, "seeds": config.seeds, "epochs_num": config.epochs_num,
                             "learning_rate": command.optim.learning_rate, "world_size": world.world_size,
                             "device": world.device.type})
    return TrainingState(state_path(weights_path(config.output_model_path)), identity, world, config.resume)


def prepare_output(command: Command) -> None:
    """See that every output can be written, before the training."""
    log, path = command.log, command.finetune.output_model_path
    for written in (weights_path(path), settings_path(path), vocab_path(path), state_path(weights_path(path))):
        prepare_file(written, "--output_model_path")
    for file, flag in ((log.metrics_path, "--metrics_path"), (log.log_path, "--log_path")):
        if file:
            prepare_file(file, flag)


def describe_data(trainings: Trials) -> None:
    """Log one line for each file, with the number of examples that were left out."""
    for name, examples in (("train", trainings.train), ("dev", trainings.dev), ("test", trainings.test)):
        if examples is None:
            continue
        skipped = "".join(f", {amount(count, what)} left out" for what, count in examples.skipped.items() if count)
        cut = int((examples.lengths >= trainings.encoder.seq_length).sum())
        logger.info("%s: %s%s, %d reach --seq_length, hash %s", name, amount(len(examples), "example"), skipped, cut,
                    examples.hash[:12])


def report(trainings: Trials, trials: list[Trial], path: str) -> None:
    """What the best trial does on dev and test, and how much seeds matter; of equal trials the first is the best."""
    best = max(trials, key=lambda trial: trial.score)
    logger.info("Best: seed %d, epoch %d; the model is at %s", best.settings.seed, best.fit.epoch, path)
    for name, outputs, metrics, examples in (("Dev", best.fit.outputs, best.fit.metrics, trainings.dev),
                                             ("Test", best.test_outputs, best.test_metrics, trainings.test)):
        if outputs is None:
            continue
        logger.info("%s set evaluation: %s", name, describe(metrics))
        if metrics.get("predicted_labels") == 1:
            logger.warning("Every prediction is the same label: the model has learned nothing else")
        for line in trainings.task.report(outputs, examples, trainings.config.report_all_labels):
            logger.info(line)
    if len(trials) > 1:
        for name, scores in (("dev", dev_scores(trials)), ("test", test_scores(trials))):
            if scores:
                logger.info("%d seeds, %s %s: %s", len(trials), name, trainings.save_best_by, spread(scores))


def dev_scores(trials: Sequence[Trial]) -> list[float]:
    """The score of each training on dev."""
    return [trial.score for trial in trials]


def test_scores(trials: Sequence[Trial]) -> list[float]:
    """The score of each training on test; none without --test_path."""
    return [trial.test_metrics[trial.settings.save_best_by] for trial in trials if trial.test_metrics]


def spread(scores: Sequence[float]) -> str:
    """`median 0.9137, 0.9100 to 0.9150`"""
    return f"median {median(scores):.4f}, {min(scores):.4f} to {max(scores):.4f}"


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
