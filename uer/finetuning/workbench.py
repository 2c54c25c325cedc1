"""What a run's trials share, loaded once: task, encoded examples, model configuration, pretrained weights' place."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from uer.config import ModelConfig, TokenizerConfig
from uer.errors import UserError
from uer.finetuning.batches import Examples, batches_in_epoch
from uer.finetuning.compilation import compile_errors, compile_model, is_compiled
from uer.finetuning.config import FinetuneConfig
from uer.finetuning.loop import Fit, FitSettings, fit, predict
from uer.finetuning.saved import load_pretrained, save_finetuned
from uer.finetuning.task import Task, TextEncoder
from uer.tokenizers import build_tokenizer
from uer.training.parallel import World
from uer.training.precision import Precision

logger = logging.getLogger("uer.finetuning")


@dataclass
class Trial:
    """One training with one seed, and what its best epoch predicts."""

    settings: FitSettings
    fit: Fit
    dev_outputs: list[np.ndarray] = field(default_factory=list)
    test_outputs: list[np.ndarray] | None = None
    test_metrics: dict[str, float] | None = None

    @property
    def score(self) -> float:
        """The figure that choices are made by."""
        return self.fit.metrics[self.settings.save_best_by]


@dataclass(frozen=True)
class Workbench:
    """Trials run on this."""

    task: Task
    encoder: TextEncoder
    model: ModelConfig
    config: FinetuneConfig
    world: World
    precision: Precision
    train: Examples
    dev: Examples | None
    test: Examples | None

    @classmethod
    def open(cls, task_class: type[Task], task_config: Any, config: FinetuneConfig, model: ModelConfig,
             tokenizer_config: TokenizerConfig, world: World) -> "Workbench":
        """Read and encode every file.

        Raises:
            UserError: whatever is wrong with files and settings, before any training.
        """
        if config.seq_length > model.max_seq_length:
            raise UserError(f"--seq_length {config.seq_length} exceeds the model's max_seq_length "
                            f"{model.max_seq_length}")
        encoder = TextEncoder(build_tokenizer(tokenizer_config), config.seq_length, config.truncation)
        task = task_class.of_training_file(config.train_path, task_config, config.columns)
        task.columns = config.columns
        if config.save_best_by is not None and config.save_best_by not in task.metric_names:
            raise UserError(f"--save_best_by: '{config.save_best_by}' is unknown for this task; choose from: "
                            f"{', '.join(task.metric_names)}")
        files = [task.examples(config.train_path, encoder),
                 *(task.evaluation_examples(path, encoder) if path else None
                   for path in (config.dev_path, config.test_path))]
        return cls(task, encoder, model, config, world, Precision(config.precision, world.device), *files)

    @property
    def pad_id(self) -> int:
        return self.encoder.tokenizer.vocab.pad_id

    @property
    def save_best_by(self) -> str:
        return self.config.save_best_by or self.task.metric_names[0]

    def run(self, settings: FitSettings, on_best: Callable[[Fit], None] | None = None, quiet: bool = False) -> Trial:
        """Train one model from the pretrained weights; evaluate its best epoch on dev and test."""
        model = self._build(settings, quiet)
        with compile_errors():
            fitted = fit(model, self.task, self.train, self.dev, settings, self.pad_id, self.world, self.precision,
                         on_best)
            model.load_state_dict(fitted.state)
            trial = Trial(settings, fitted,
                          predict(model, self.task, self.dev, self.pad_id, self.world, self.precision))
            if self.test is not None:
                trial.test_outputs = predict(model, self.task, self.test, self.pad_id, self.world, self.precision)
                trial.test_metrics = self.task.metrics(trial.test_outputs, self.test)
        return trial

    def _build(self, settings: FitSettings, quiet: bool) -> nn.Module:
        """The model as its training begins."""
        torch.manual_seed(settings.seed)
        model = self.task.build(self.model, len(self.encoder.tokenizer.vocab))
        if self.config.pretrained_model_path:
            for line in load_pretrained(model, self.config.pretrained_model_path, self.config.config_path):
                (logger.debug if quiet else logger.info)(line)
        elif not quiet:
            logger.warning("No --pretrained_model_path: the whole model starts at random")
        model.to(self.world.device)
        updates = settings.epochs_num * batches_in_epoch(self.train, settings.batch_size)
        if is_compiled(self.config.compile, updates, self.world.device):
            compile_model(model, self.world.device)
        return model

    def save(self, path: str, fitted: Fit, settings: FitSettings) -> None:
        """Write the model with all that inference needs; only rank 0 does."""
        if self.world.is_main:
            save_finetuned(path, fitted.state, self.task, self.model, self.encoder, {
                "seed": settings.seed, "batch_size": settings.batch_size, "epochs_num": settings.epochs_num,
                "learning_rate": settings.optim.learning_rate, "best_epoch": fitted.epoch, "dev": fitted.metrics,
                "pretrained_model_path": self.config.pretrained_model_path, "train_hash": self.train.hash,
                "dev_hash": self.dev.hash})
