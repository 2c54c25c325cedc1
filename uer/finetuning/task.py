"""What the loop needs to know of a task; each file of `uer.finetuning.tasks` fills this in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import Batch, Examples
from uer.finetuning.rows import Sequences, build_sequences, tokenize_all
from uer.tokenizers import Tokenizer


@dataclass(frozen=True)
class TextToRows:
    """Texts -> rows, with one set of settings for training, evaluation and inference."""

    tokenizer: Tokenizer
    seq_length: int
    truncation: str = "head"

    def sequences(self, first: Sequence[str], second: Sequence[str] | None = None) -> Sequences:
        """[CLS] first [SEP], or [CLS] first [SEP] second [SEP], one row for each text or pair."""
        vocab = self.tokenizer.vocab
        return build_sequences(tokenize_all(self.tokenizer, first),
                               None if second is None else tokenize_all(self.tokenizer, second),
                               self.seq_length, self.truncation, vocab.cls_id, vocab.sep_id)


class Task:
    """A task: its examples, its model, its loss and its figures.

    Attributes:
        name: stands in the saved settings.
        metric_names: figures that --save_best_by may name; the first is the default. More is better in all of them.
        head_keys: parameters that only a fine-tuned model of this task has.
        config_class: the flags that only this task has, if any.
        infer_config_class: the same of its prediction script.
        columns: names of the columns of TSV files without a header (--columns).
        whole_batch: the loss compares a batch's examples with one another, so ranks cannot share a batch.
    """

    name: str
    metric_names: tuple[str, ...]
    head_keys: tuple[str, ...]
    config_class: type | None = None
    infer_config_class: type | None = None
    columns: tuple[str, ...] = ()
    whole_batch: bool = False

    @classmethod
    def of_training_file(cls, path: str, config: Any, columns: tuple[str, ...] = ()) -> "Task":
        """The task that a training file poses, such as its labels; `config` is a `config_class`."""
        raise NotImplementedError

    def examples(self, path: str, encoder: TextToRows, labelled: bool = True) -> Examples:
        """Read and encode a file.

        Args:
            labelled: False at inference: targets are not read.
        """
        raise NotImplementedError

    def evaluation_examples(self, path: str, encoder: TextToRows) -> Examples:
        """Read and encode a file whose figures are wanted, such as dev."""
        return self.examples(path, encoder)

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        """A model with random weights; its forward takes a Batch and gives what `loss` and `outputs` take."""
        raise NotImplementedError

    def denominator(self, examples: Examples, chosen: np.ndarray) -> float:
        """What the summed loss of a batch is divided by: known to every rank without communication."""
        return float(len(chosen))

    def loss(self, predicted: Any, batch: Batch) -> Tensor:
        """The loss summed over the batch's examples, 0-dim."""
        raise NotImplementedError

    def outputs(self, predicted: Any, batch: Batch) -> list[np.ndarray]:
        """What the model says about each example of the batch, on the host."""
        raise NotImplementedError

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        """Figures of a whole file; `outputs` in the examples' order."""
        raise NotImplementedError

    def report(self, outputs: list[np.ndarray], examples: Examples, all_labels: bool = False) -> list[str]:
        """Lines that tell a reader more than the figures.

        Args:
            all_labels: a line for every label, however many there are.
        """
        return []

    def describe(self, examples: Examples) -> str:
        """How many predictions there are for a file, in words."""
        return f"{len(examples)} predictions"

    def settings(self) -> dict[str, Any]:
        """What `from_settings` needs to make this task again at inference; plain JSON."""
        raise NotImplementedError

    @classmethod
    def of_labels_num(cls, labels_num: int | None) -> "Task":
        """The task of weights without settings, as UER-py writes them.

        Raises:
            UserError: the task needs more than a number of labels.
        """
        raise UserError(f"--load_model_path: the task '{cls.name}' needs the settings file beside the weights")

    @classmethod
    def of_weights(cls, labels_num: int | None, flags: Any, state: Mapping[str, Tensor]) -> "Task":
        """The task of weights without settings.

        Args:
            labels_num: as the user gave it.
            flags: an `infer_config_class`.
            state: the weights.
        """
        return cls.of_labels_num(labels_num).with_flags(flags)

    def with_flags(self, flags: Any) -> "Task":
        """The task as the flags of inference, an `infer_config_class`, change it.

        Raises:
            UserError: they contradict what the model was trained with.
        """
        return self

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """The lines of the prediction file.

        Args:
            logits, prob: whether logits and probabilities are wanted too.
        """
        raise NotImplementedError

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Task":
        """The task of a saved model."""
        raise NotImplementedError
