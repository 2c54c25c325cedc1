"""The prediction command of every task: a fine-tuned model, a file of examples, a file of predictions."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from uer import model_settings
from uer.config import ModelConfig, ParallelConfig, TokenizerConfig
from uer.convert.open import is_hugging_face, load_checkpoint
from uer.errors import UserError
from uer.files import atomic_path, prepare_file
from uer.finetuning.batches import Examples
from uer.finetuning.config import InferConfig
from uer.finetuning.hugging_face import HEAD_TASKS
from uer.finetuning.loop import predict
from uer.finetuning.paths import weights_path
from uer.finetuning.progress import InferenceProgress
from uer.finetuning.saved_model import SavedModel, load_finetuned, load_settings, require_finetuned, task_of
from uer.finetuning.task import InputFile, Task, TextToRows
from uer.runtime.launch import RankInfo
from uer.runtime.parallel import World, connect
from uer.runtime.precision import Precision
from uer.text import amount

SIZES = ("emb_size", "hidden_size", "feedforward_size", "heads_num", "layers_num")


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned model that predicts files.

    Attributes:
        task: the task.
        encoder: converts texts to rows.
        model: the module, on its device.
        world: the device.
        config: the flags.
    """

    task: Task
    encoder: TextToRows
    model: nn.Module
    world: World
    config: InferConfig

    def outputs(self, file: InputFile, title: str = "") -> Iterator[tuple[Examples, list[np.ndarray]]]:
        """Each piece of a file and, in its order, one array for each example (see `Task.outputs`).

        Args:
            title: what the progress is of, where there are several.
        """
        precision, pad_id = Precision(self.config.precision, self.world.device), self.encoder.tokenizer.vocab.pad_id
        progress = InferenceProgress(file.count, self.task.noun, title)
        try:
            for examples in file.pieces:
                each = self.task.inputs_num(examples) / len(examples)
                outputs = predict(self.model, self.task, examples, pad_id, self.world, precision,
                                  self.config.batch_size, lambda done, each=each: progress.advance(done * each))
                yield examples, outputs
        finally:
            progress.close()


def infer(description: str, task_class: type[Task], argv: Sequence[str] | None = None) -> None:
    """Run the prediction script of a task.

    Args:
        description: first line of --help.
        task_class: the task.
        argv: the command line; by default that of this process.

    Raises:
        UserError: a flag or a file is wrong.
    """
    own = (task_class.infer_config_class,) if task_class.infer_config_class else ()
    config, *configs = model_settings.parse(description, (InferConfig, ModelConfig, TokenizerConfig, *own), argv)
    prepare_predictions(config, task_class)
    predictor = open_predictor(task_class, config, *configs)
    file = predictor.task.inputs(config.test_path, predictor.encoder)
    write_predictions(config, predictor.task, file, predictor.outputs(file))


def prepare_predictions(config: InferConfig, task_class: type[Task]) -> None:
    """Check that the prediction file can be written as the flags want it, before anything is computed."""
    for name in ("output_logits", "output_prob"):
        if getattr(config, name) and not task_class.writes_logits:
            raise UserError(f"--{name}: the predictions of the task '{task_class.name}' have no such column")
    prepare_file(config.prediction_path, "--prediction_path")


def write_predictions(config: InferConfig, task: Task, file: InputFile,
                      outputs: Iterable[tuple[Examples, list[np.ndarray]]]) -> None:
    """Write the prediction file; after an error there is no partial file.

    Args:
        outputs: see `Predictor.outputs`.
    """
    windows = 0
    with atomic_path(config.prediction_path) as temporary, open(temporary, "w", encoding="utf-8") as written:
        for number, (examples, piece) in enumerate(outputs):
            lines = task.predictions(piece, examples, config.output_logits, config.output_prob)
            written.writelines(f"{line}\n" for line in lines[number > 0:])  # one header
            windows += len(examples)
    divided = f" (from {windows} windows)" if windows > file.count else ""
    skipped = "".join(f"; {amount(count, what)} of {config.test_path} without a prediction"
                      for what, count in file.skipped.items() if count)
    print(f"{amount(file.count, task.noun)}{divided} written to {config.prediction_path}{skipped}")


def open_predictor(task_class: type[Task], config: InferConfig, model_config: ModelConfig,
                   tokenizer_config: TokenizerConfig, task_flags: Any = None) -> Predictor:
    """The model at --load_model_path.

    Args:
        task_flags: an object of the task's `infer_config_class`, if it has one.

    Raises:
        UserError: a file cannot be read, or a flag contradicts the model's settings.
    """
    if task_flags is None and task_class.infer_config_class:
        task_flags = task_class.infer_config_class()
    saved = load_settings(config.load_model_path)
    if saved is not None:
        task, model_config, encoder = _with_settings(saved, task_class, config, model_config, tokenizer_config)
        task = task.with_flags(task_flags)
    else:
        task, encoder = _without_settings(task_class, config, tokenizer_config, task_flags)
    task.columns = config.columns
    if encoder.seq_length > model_config.longest_row:
        raise UserError(f"--seq_length {encoder.seq_length} exceeds the model's max_seq_length "
                        f"{model_config.longest_row}")
    model = task.build(model_config, len(encoder.tokenizer.vocab))
    load_finetuned(model, task, config.load_model_path)
    world = connect(RankInfo(), ParallelConfig(device=config.device))
    return Predictor(task, encoder, model.to(world.device), world, config)


def _with_settings(saved: SavedModel, task_class: type[Task], config: InferConfig, model_config: ModelConfig,
                   tokenizer_config: TokenizerConfig) -> tuple[Task, ModelConfig, TextToRows]:
    """Task, model settings and tokenizer from the settings file; flags that UER-py needs must not contradict it."""
    path = config.load_model_path
    if saved.task != task_class.name:
        raise UserError(f"{path}: a model of the task '{saved.task}', not '{task_class.name}'")
    labels = saved.task_settings.get("labels")
    if config.labels_num is not None and labels is not None and config.labels_num != len(labels):
        raise UserError(f"--labels_num {config.labels_num}: {path} has {len(labels)} labels")
    if config.config_path is not None:
        for name in SIZES:
            ours, theirs = getattr(saved.model.stream(0), name), getattr(model_config.stream(0), name)
            if ours != theirs:
                raise UserError(f"--config_path {config.config_path}: {name} is {theirs}, but {ours} in {path}")
    if tokenizer_config.vocab_path is not None:
        given = task_class.open_tokenizer(tokenizer_config).vocab.fingerprint
        if given != saved.encoder.tokenizer.vocab.fingerprint:
            raise UserError(f"--vocab_path {tokenizer_config.vocab_path}: not the vocabulary of {path}")
    tokenizer = saved.encoder.tokenizer
    for name, given, default, ours in (
            ("pooling", model_config.pooling, ModelConfig.pooling, saved.model.pooling),
            ("tokenizer", tokenizer_config.tokenizer, TokenizerConfig.tokenizer, tokenizer.kind),
            ("do_lower_case", tokenizer_config.do_lower_case, True, tokenizer.do_lower_case)):
        if given not in (default, ours):
            raise UserError(f"--{name} {given}: {path} was fine-tuned with {ours}")
    encoder = dataclasses.replace(saved.encoder, seq_length=config.seq_length or saved.encoder.seq_length,
                                  truncation=config.truncation or saved.encoder.truncation)
    return task_of(saved, task_class), saved.model, encoder


def _without_settings(task_class: type[Task], config: InferConfig, tokenizer_config: TokenizerConfig,
                      task_flags: Any) -> tuple[Task, TextToRows]:
    """Task and tokenizer for weights without a settings file, as UER-py saves them: the flags describe them."""
    if is_hugging_face(config.load_model_path):
        head = next((head for head, tasks in HEAD_TASKS.items() if task_class in tasks), None)
        script = f"; scripts/convert_bert_{head}_from_huggingface_to_uer.py makes one" if head else ""
        raise UserError(f"{config.load_model_path}: a Hugging Face model, not one that was fine-tuned here{script}")
    path = weights_path(config.load_model_path)
    state = load_checkpoint(path, lambda line: None)  # `load_finetuned` says it
    require_finetuned(state, task_class, path)
    if config.config_path is None:
        raise UserError(f"--config_path is required: there is no settings file beside {path} "
                        "(the fine-tuning scripts of this toolkit write one)")
    task = task_class.of_weights(config.labels_num, task_flags, state)
    tokenizer = task_class.open_tokenizer(tokenizer_config)
    return task, TextToRows(tokenizer, config.seq_length or 128, config.truncation or "head")
