"""Cross-validation: as many models as there are folds, each judged on the fold that it did not see."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from uer import model_settings
from uer.config import ModelConfig, TokenizerConfig
from uer.errors import UserError
from uer.files import atomic_path, prepare_file
from uer.finetuning.batches import subset
from uer.finetuning.config import CrossValidationConfig, FoldsConfig, InferConfig
from uer.finetuning.infer import compute_outputs, prepare_predictions, write_predictions
from uer.finetuning.loop import Fit, describe
from uer.finetuning.run import (
    Command,
    append_lines,
    describe_data,
    inputs_of,
    parse_with,
    prepare_output,
    set_up_logging,
    spread,
    trial_lines,
)
from uer.finetuning.saved import weights_path
from uer.finetuning.tasks.classification import Classification
from uer.finetuning.workbench import Workbench
from uer.training import launch
from uer.training.parallel import connect

logger = logging.getLogger("uer.finetuning")


def fold_path(path: str, fold: int) -> str:
    """`model.bin` -> `model-fold_0.bin`"""
    weights = weights_path(path)
    return str(weights.with_name(f"{weights.stem}-fold_{fold}{weights.suffix}"))


def fold_of(examples_num: int, folds_num: int, seed: int) -> np.ndarray:
    """The fold of every example: parts of equal size (to one), drawn from the seed."""
    return np.random.default_rng(seed).permutation(examples_num) % folds_num


def cross_validate(description: str, argv: Sequence[str] | None = None) -> None:
    """The whole script."""
    command, _ = parse_with(description, Classification, (), argv, CrossValidationConfig)
    status = launch.run(launch.places(command.parallel), _rank, command)
    if status:
        raise SystemExit(status)


def _prepare(command: Command) -> None:
    for fold in range(command.finetune.folds_num):
        path = fold_path(command.finetune.output_model_path, fold)
        prepare_output(dataclasses.replace(command, finetune=dataclasses.replace(
            command.finetune, output_model_path=path)))
    if command.finetune.train_features_path:
        prepare_file(command.finetune.train_features_path, "--train_features_path", inputs_of(command))


def _rank(place: launch.Place, command: Command) -> int:
    world, config = connect(place, command.parallel), command.finetune
    world.check(lambda: _prepare(command) if world.is_main else None)
    set_up_logging(command.log, world.is_main)
    bench = world.check(lambda: Workbench.open(command.task_class, command.task_config, config, command.model,
                                               command.tokenizer, world))
    if len(bench.train) < config.folds_num:
        raise UserError(f"{config.train_path}: {len(bench.train)} examples for --folds_num {config.folds_num}")
    describe_data(bench)
    folds = fold_of(len(bench.train), config.folds_num, config.seed)
    settings, outputs, scores = command.settings(config.seed, bench.save_best_by), [None] * len(bench.train), []
    for fold in range(config.folds_num):
        logger.info("Fold %d of %d", fold + 1, config.folds_num)
        held_out = np.flatnonzero(folds == fold)
        part = dataclasses.replace(bench, train=subset(bench.train, np.flatnonzero(folds != fold)),
                                   dev=subset(bench.train, held_out))

        def save(fitted: Fit, part: Workbench = part, fold: int = fold) -> None:
            part.save(fold_path(config.output_model_path, fold), fitted, settings)

        trial = part.run(settings, save)
        scores.append(trial.score)
        for number, output in zip(held_out, trial.dev_outputs):
            outputs[number] = output
        if world.is_main and command.log.metrics_path:
            append_lines(command.log.metrics_path, [{"fold": fold, **line} for line in trial_lines(trial)])
    logger.info("%d folds, %s: %s", config.folds_num, bench.save_best_by, spread(scores))
    logger.info("All examples, each by the model that did not see it: %s",
                describe(bench.task.metrics(outputs, bench.train)))
    if world.is_main and config.train_features_path:
        save_features(config.train_features_path, np.stack(outputs))
    world.close()
    return 0


def infer_with_folds(description: str, argv: Sequence[str] | None = None) -> None:
    """The whole prediction script: the mean of the folds' logits decides."""
    config, folds, *configs = model_settings.parse(description, (InferConfig, FoldsConfig, ModelConfig,
                                                                 TokenizerConfig), argv)
    prepare_predictions(config)
    if folds.test_features_path:
        prepare_file(folds.test_features_path, "--test_features_path", (config.test_path,))
    total, task, examples = 0.0, None, None
    for fold in range(folds.folds_num):
        one = dataclasses.replace(config, load_model_path=fold_path(config.load_model_path, fold))
        task, examples, outputs = compute_outputs(Classification, one, *configs)
        total = total + np.stack(outputs)
    mean = total / folds.folds_num
    if folds.test_features_path:
        save_features(folds.test_features_path, mean)
    write_predictions(config, task, examples, list(mean))


def save_features(path: str, features: np.ndarray) -> None:
    """Write a .npy file, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, features.astype(np.float32))
