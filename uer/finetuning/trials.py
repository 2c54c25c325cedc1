"""Everything that the trainings of one command share and that is loaded once: task, examples, settings, ranks."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from uer.checkpoint.files import load_trained, to_host
from uer.config import LoraConfig, ModelConfig, TokenizerConfig
from uer.errors import UserError
from uer.finetuning.batches import Examples, batches_in_epoch
from uer.finetuning.compilation import compile_model, is_compiled
from uer.finetuning.config import FinetuneConfig
from uer.finetuning.heads import initialise_head
from uer.finetuning.loop import Fit, FitSettings, Kept, Trial, Updater, fit, predict
from uer.finetuning.progress import Progress
from uer.finetuning.saved_model import load_pretrained, pretrained_hash, save_finetuned
from uer.finetuning.task import Task, TextToRows
from uer.layers.lora import merged
from uer.lora import adapt
from uer.runtime.parallel import World
from uer.runtime.precision import Precision, keep_dropout_exact
from uer.runtime.threads import Split, pays, split_of, usable_cores
from uer.text import amount, seconds_text
from uer.training.run_summary import device_name
from uer.training.threads import draws_of_torch

logger = logging.getLogger("uer.finetuning")


@dataclass(frozen=True)
class Trials:
    """Trains models on the same files, each with its own batch size, learning rate, epochs and seed.

    Attributes:
        task: the task, with the labels of the training file.
        encoder: converts texts to rows of token ids.
        model: the model's architecture.
        config: the flags of the command.
        world: the ranks.
        precision: fp32 or bf16.
        train, dev, test: the examples of the files; None where a file is not given.
        lora: whether and how adapters are trained instead of the whole model.
    """

    task: Task
    encoder: TextToRows
    model: ModelConfig
    config: FinetuneConfig
    world: World
    precision: Precision
    train: Examples
    dev: Examples | None
    test: Examples | None
    lora: LoraConfig

    @classmethod
    def open(cls, task_class: type[Task], task_config: Any, config: FinetuneConfig, model: ModelConfig,
             tokenizer_config: TokenizerConfig, world: World, lora: LoraConfig) -> "Trials":
        """Read every file and convert it to token ids.

        Raises:
            UserError: a file or a setting is wrong.
        """
        if config.seq_length > model.longest_row:
            raise UserError(f"--seq_length {config.seq_length} exceeds the model's max_seq_length "
                            f"{model.longest_row}")
        _require_files(config.pretrained_model_path, lora.lora_pretrained_model_path)
        encoder = TextToRows(task_class.open_tokenizer(tokenizer_config), config.seq_length, config.truncation)
        task = task_class.of_training_file(config.train_path, task_config, config.columns)
        task.columns = config.columns
        if config.save_best_by is not None and config.save_best_by not in task.metric_names:
            raise UserError(f"--save_best_by: '{config.save_best_by}' is unknown for this task; choose from: "
                            f"{', '.join(task.metric_names)}")
        _require_files(*(file for path in (config.dev_path, config.test_path) if path for file in task.files(path)))
        files = [_read(task, task.examples, config.train_path, encoder),
                 *(_read(task, task.evaluation_examples, path, encoder) if path else None
                   for path in (config.dev_path, config.test_path))]
        for stream in (0, 1):
            keep_dropout_exact(model.stream(stream).dropout)
        task.gather = world.gather_rows
        return cls(task, encoder, model, config, world, Precision(config.precision, world.device), *files, lora)

    @property
    def pad_id(self) -> int:
        return self.encoder.tokenizer.vocab.pad_id

    @property
    def save_best_by(self) -> str:
        return self.config.save_best_by or self.task.metric_names[0]

    def run(self, settings: FitSettings, on_best: Callable[[Fit], None] | None = None, quiet: bool = False,
            progress: Progress | None = None, kept: Kept | None = None) -> Trial:
        """Train one model from the pretrained weights, and evaluate its best epoch on test.

        Args:
            settings: batch size, epochs, seed and optimizer.
            on_best: called after each epoch that is the best so far.
            quiet: log nothing.
            progress: shows the progress; nothing by default.
            kept: the training state to continue from and to update.

        Raises:
            Diverged: the loss or the weights are not finite.
        """
        model = self._build(settings, quiet)
        threads = self.config.threads or usable_cores()
        split = self._split(model, settings, threads)
        if not quiet:
            logger.info(self._plan(model, settings, split))
        trial = Trial(settings, fit(  # which alone holds the updater: its memory is free for the test file
            Updater(model, self.task, settings, self._updates(settings), self.pad_id, self.world, self.precision,
                    progress, split, threads), self.train, self.dev, on_best, kept))
        if self.test is not None:
            if not quiet:
                logger.info("Evaluating %s of test with the model of epoch %d", amount(len(self.test), "example"),
                            trial.fit.epoch)
            load_trained(model, trial.fit.state)
            trial.test_outputs = predict(model, self.task, self.test, self.pad_id, self.world, self.precision)
            trial.test_metrics = self.task.metrics(trial.test_outputs, self.test)
        return trial

    def _updates(self, settings: FitSettings) -> int:
        """Updates of a whole training."""
        return settings.epochs_num * batches_in_epoch(self.train, settings.batch_size)

    def _split(self, model: nn.Module, settings: FitSettings, threads: int) -> Split | None:
        """How the threads of a CPU divide a batch; None on a GPU, and where ranks share a batch."""
        if self.world.device.type != "cpu" or self.world.world_size > 1:
            return None
        in_parts = not (self.task.whole_batch or model.encoder.reads_padding or draws_of_torch(model)
                        or is_compiled(self.config.compile, self._updates(settings), self.world.device))
        tokens = settings.batch_size * int(self.train.rows.lengths.sum()) // len(self.train)
        worth = self.config.threads or pays(sum(parameter.numel() for parameter in model.parameters()), tokens)
        return split_of(threads, settings.batch_size if in_parts and worth else 1)

    def _plan(self, model: nn.Module, settings: FitSettings, split: Split | None) -> str:
        """One line before the first update."""
        parameters = sum(parameter.numel() for parameter in model.parameters())
        ranks = f"{self.world.world_size} ranks, each a " if self.world.world_size > 1 else ""
        return (f"Plan: {amount(len(self.train), 'example')} in batches of {settings.batch_size}, "
                f"{amount(settings.epochs_num, 'epoch')}: {amount(self._updates(settings), 'update')}; "
                f"{parameters:,} parameters; seed {settings.seed}; {ranks}{device_name(self.world.device, split)}, "
                f"{self.precision.describe()}")

    def _build(self, settings: FitSettings, quiet: bool) -> nn.Module:
        """The model before its first update: pretrained weights and a new head, on the device."""
        torch.manual_seed(settings.seed)
        model = self.task.build(self.model, len(self.encoder.tokenizer.vocab))
        if self.config.pretrained_model_path:
            say = logger.debug if quiet else logger.info
            initialise_head(model)
            lines, new = load_pretrained(model, self.config.pretrained_model_path, self.config.config_path)
            for line in lines:
                say(line)
            if self.lora.use_lora:
                adapt(model, self.lora, say, new)
        elif not quiet:
            logger.warning("No --pretrained_model_path: all weights of the model start at random")
        model.to(self.world.device)
        if is_compiled(self.config.compile, self._updates(settings), self.world.device):
            compile_model(model, self.world.device)
        return model

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Hashes of the data files, the vocabulary and the pretrained weights, computed once for all trainings."""
        path = self.config.pretrained_model_path
        return {"train_hash": self.train.hash[:16], "dev_hash": self.dev.hash[:16] if self.dev else "",
                "test_hash": self.test.hash[:16] if self.test else "",
                "vocab_hash": self.encoder.tokenizer.vocab.fingerprint[:16],
                "pretrained_hash": pretrained_hash(path)[:16] if path else "random start"}

    def save(self, path: str, fitted: Fit, settings: FitSettings, **facts: Any) -> None:
        """Write the model and everything that inference needs; only rank 0 writes.

        Args:
            path: the weights file or a folder.
            fitted: the training's result.
            settings: what it was trained with.
            facts: further entries of `training` in the settings file; plain JSON.
        """
        if self.world.is_main:
            save_finetuned(path, self._weights(fitted), self.task, self.model, self.encoder, {
                "seed": settings.seed, "batch_size": settings.batch_size, "epochs_num": settings.epochs_num,
                "learning_rate": settings.optim.learning_rate, "best_epoch": fitted.epoch, "dev": fitted.metrics,
                "pretrained_model_path": self.config.pretrained_model_path, "train_hash": self.train.hash,
                "dev_hash": self.dev.hash, **self._lora_facts(), **facts})

    def _weights(self, fitted: Fit) -> dict[str, Tensor]:
        """What is saved of a training: the whole model, or with --lora_save adapter what was trained of it."""
        if not self.lora.use_lora or self.lora.lora_save == "adapter":
            return fitted.state
        state = to_host({**fitted.frozen, **fitted.state})
        return merged(state, self.lora.lora_alpha)

    def _lora_facts(self) -> dict[str, Any]:
        """What the settings of a saved model tell of its adapters."""
        if not self.lora.use_lora:
            return {}
        return {"lora": {**self.lora.values(), "pretrained_hash": self.fingerprints["pretrained_hash"]}}


def _require_files(*paths: str | None) -> None:
    """See that files are there, before others are read for minutes.

    Raises:
        UserError: one is missing.
    """
    for path in paths:
        if path and not os.path.exists(path):
            raise UserError(f"{path}: No such file or directory")


def _read(task: Task, read: Callable[[str, TextToRows], Examples], path: str, encoder: TextToRows) -> Examples:
    """Read the examples of a file, and log how long it took."""
    shown = ", ".join(task.files(path))
    logger.info("Reading and tokenizing %s", shown)
    began = time.perf_counter()
    examples = read(path, encoder)
    logger.info("%s: %s, %s, read in %s", shown, amount(len(examples), "example"),
                amount(int(examples.rows.lengths.sum()), "token"), seconds_text(time.perf_counter() - began))
    return examples
