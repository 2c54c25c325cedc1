"""Cross-validation: as many models as there are folds, each judged on the fold that it did not see."""

import dataclasses
import logging
import sys
from collections.abc import Sequence

import numpy as np

from uer import model_settings
from uer.config import ModelConfig, TokenizerConfig
from uer.errors import UserError
from uer.files import atomic_path, prepare_file
from uer.finetuning.batches import Examples, subset
from uer.finetuning.command import (
    Command,
    dev_scores,
    opened,
    parse_with,
    prepare_output,
    run_ranks,
    run_trial,
    spread,
    test_scores,
)
from uer.finetuning.config import CrossValidationConfig, FoldsConfig, InferConfig
from uer.finetuning.infer import open_predictor, prepare_predictions, write_predictions
from uer.finetuning.labels import shorten
from uer.finetuning.loop import Fit, Trial
from uer.finetuning.paths import existing_folds, fold_path
from uer.finetuning.progress import describe
from uer.finetuning.resume import TrainingState
from uer.finetuning.rows import Ragged, Sequences
from uer.finetuning.saved_model import training_of
from uer.finetuning.tasks.classification import Classification
from uer.finetuning.trials import Trials
from uer.runtime import launch
from uer.runtime.metrics_writer import MetricsWriter

logger = logging.getLogger("uer.finetuning")

# A classifier's predictions are made of its outputs alone.
NO_EXAMPLES = Examples(Sequences(Ragged.of([]), np.empty(0, np.int64)))
# What all folds of one cross-validation have in common, as the settings beside their models tell.
COMMON = ("folds_num", "train_hash", "seed", "batch_size", "epochs_num", "learning_rate")


def fold_of(examples_num: int, folds_num: int, seed: int) -> np.ndarray:
    """The fold of every example: parts of equal size (to one), drawn from the seed."""
    return np.random.default_rng(seed).permutation(examples_num) % folds_num


def cross_validate(description: str, argv: Sequence[str] | None = None) -> None:
    """The whole script."""
    command, _ = parse_with(description, Classification, (), argv, CrossValidationConfig)
    run_ranks(_rank, command)


def _prepare(command: Command) -> None:
    for fold in range(command.finetune.folds_num):
        path = fold_path(command.finetune.output_model_path, fold)
        prepare_output(dataclasses.replace(command, finetune=dataclasses.replace(
            command.finetune, output_model_path=path)))
    if command.finetune.train_features_path:
        prepare_file(command.finetune.train_features_path, "--train_features_path")


def _rank(rank_info: launch.RankInfo, command: Command) -> int:
    config = command.finetune
    with opened(rank_info, command, _prepare, folds_num=config.folds_num) as (trainings, state, writer):
        if len(trainings.train) < config.folds_num:
            raise UserError(f"{config.train_path}: {len(trainings.train)} examples for --folds_num {config.folds_num}")
        outputs, trials = run_folds(command, trainings, state, writer)
        logger.info("%d folds, %s: %s", config.folds_num, trainings.save_best_by, spread(dev_scores(trials)))
        if trainings.test is not None:
            logger.info("%d folds, test %s: %s", config.folds_num, trainings.save_best_by, spread(test_scores(trials)))
        logger.info("All examples, each by the model that did not see it: %s",
                    describe(trainings.task.metrics(outputs, trainings.train)))
        if trainings.world.is_main and config.train_features_path:
            save_features(config.train_features_path, np.stack(outputs))
    return 0


def run_folds(command: Command, trainings: Trials, state: TrainingState,
              writer: MetricsWriter | None) -> tuple[list[np.ndarray], list[Trial]]:
    """One training for each fold; the output for every example, of the model that did not see it, and the trainings.
    """
    config, settings = command.finetune, command.settings(command.finetune.seed, trainings.save_best_by)
    folds = fold_of(len(trainings.train), config.folds_num, config.seed)
    outputs: list[np.ndarray] = [np.empty(0)] * len(trainings.train)
    trials = []
    for fold in range(config.folds_num):
        logger.info("Fold %d of %d", fold + 1, config.folds_num)
        held_out = np.flatnonzero(folds == fold)
        part = dataclasses.replace(trainings, train=subset(trainings.train, np.flatnonzero(folds != fold)),
                                   dev=subset(trainings.train, held_out))

        def save(fitted: Fit, part: Trials = part, fold: int = fold) -> None:
            part.save(fold_path(config.output_model_path, fold), fitted, settings, folds_num=config.folds_num)

        trials.append(run_trial(part, settings, f"fold {fold}", save, state, writer, config.folds_num - fold - 1,
                                tag=f"fold_{fold}/", facts={"fold": fold}))
        for number, output in zip(held_out, trials[-1].fit.outputs):
            outputs[number] = output
    return outputs, trials


def infer_with_folds(description: str, argv: Sequence[str] | None = None) -> None:
    """The whole prediction script: the mean of the folds' logits decides."""
    config, folds, *configs = model_settings.parse(description, (InferConfig, FoldsConfig, ModelConfig,
                                                                 TokenizerConfig), argv)
    _require_folds(config.load_model_path, folds.folds_num)
    prepare_predictions(config, Classification)
    if folds.test_features_path:
        prepare_file(folds.test_features_path, "--test_features_path")
    total, task = 0.0, None
    for fold in range(folds.folds_num):
        one = dataclasses.replace(config, load_model_path=fold_path(config.load_model_path, fold))
        predictor = open_predictor(Classification, one, *configs)
        own = predictor.task
        task = task or own
        if own.labels.names != task.labels.names:
            raise UserError(f"{one.load_model_path}: its labels are {shorten(own.labels.names)}, those of fold 0 are "
                            f"{shorten(task.labels.names)}")
        file = own.inputs(config.test_path, predictor.encoder)
        pieces = predictor.outputs(file, f"fold {fold + 1} of {folds.folds_num}")
        total = total + np.concatenate([np.stack(outputs) for _, outputs in pieces])
    mean = total / folds.folds_num
    if folds.test_features_path:
        save_features(folds.test_features_path, mean)
    write_predictions(config, task, file, [(NO_EXAMPLES, list(mean))])


def _require_folds(path: str, folds_num: int) -> None:
    """See that the models of so many folds are there, all of one cross-validation; a note where there are more.

    Raises:
        UserError: one is missing (it says which folds there are), or is of another cross-validation: files of an
            earlier one with more folds are still there, or a second one was stopped.
    """
    existing = existing_folds(path)
    names = ", ".join(map(str, existing))
    missing = next((fold for fold in range(folds_num) if fold not in existing), None)
    if missing is not None:
        raise UserError(f"--folds_num {folds_num}: {fold_path(path, missing)} is missing; there are "
                        + (f"folds {names}" if existing else "no folds"))
    trainings = [training_of(fold_path(path, fold)) for fold in range(folds_num)]
    for fold, training in enumerate(trainings):
        other = next((name for name in COMMON if training.get(name) != trainings[0].get(name)), None)
        if other:
            raise UserError(f"{fold_path(path, fold)} is not of the cross-validation of fold 0: {other} is "
                            f"{training.get(other)}, not {trainings[0].get(other)}")
    if len(existing) > folds_num:
        print(f"note: --folds_num {folds_num}: {folds_num} of the folds {names} are used", file=sys.stderr)


def save_features(path: str, features: np.ndarray) -> None:
    """Write a .npy file, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, features.astype(np.float32))
