"""The interface of a task: the training loop calls its methods; each file of `uer.finetuning.tasks` implements them.

Letters of shapes: N examples of a file, B rows of a batch (examples * ways), S tokens of its longest row, C labels,
H hidden size.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from uer.config import ModelConfig, TokenizerConfig
from uer.errors import UserError
from uer.finetuning.batches import Batch, Examples
from uer.finetuning.config import FinetuneConfig
from uer.finetuning.inputs import Prediction
from uer.finetuning.rows import Sequences, build_sequences, tokenize_all
from uer.tokenizers import Tokenizer, build_tokenizer


@dataclass(frozen=True)
class TextToRows:
    """Converts texts to rows of token ids, with the same settings in training, evaluation and inference.

    Attributes:
        tokenizer: converts text to token ids.
        seq_length: maximum tokens in a row, [CLS] and [SEP] included.
        truncation: which part of a longer text is kept; see `uer.finetuning.rows.build_sequences`.
    """

    tokenizer: Tokenizer
    seq_length: int
    truncation: str = "head"

    def sequences(self, first: Sequence[str], second: Sequence[str] | None = None) -> Sequences:
        """Rows [CLS] first [SEP], or [CLS] first [SEP] second [SEP], one for each text or pair of texts."""
        vocab = self.tokenizer.vocab
        return build_sequences(tokenize_all(self.tokenizer, first),
                               None if second is None else tokenize_all(self.tokenizer, second),
                               self.seq_length, self.truncation, vocab.cls_id, vocab.sep_id)


@dataclass(frozen=True)
class InputFile:
    """A file of examples without labels, to predict.

    Attributes:
        count: how many predictions it asks for.
        skipped: what the reader left out, and how often.
        pieces: its examples, in pieces that fit into memory where the file does not.
    """

    count: int
    skipped: Counter[str]
    pieces: Iterable[Examples]


def _one_rank(rows: Tensor) -> tuple[Tensor, int]:
    return rows, 0


class Task:
    """Defines the examples, the model, the loss and the metrics of a task.

    Attributes:
        name: written to the saved settings.
        metric_names: metrics that --save_best_by may name; the first is the default. Higher is better for all of them.
        config_class: dataclass of the flags that only this task has, if any.
        infer_config_class: the same for its prediction script.
        finetune_class: dataclass of the flags that every task has, with other defaults where the task needs them.
        columns: names of the columns of TSV files without a header (--columns).
        whole_batch: whether the loss compares the examples of a batch; threads cannot share a batch then, and ranks
            share it by `gather`.
        has_target: whether the model has a pretraining target instead of a head, as pretrained models do.
        writes_logits: whether the predictions can have columns of logits and probabilities.
        noun: what a prediction is called in messages.
        tokenizer: the tokenizer of this task, which replaces the default of --tokenizer.
        gather: the rows of all ranks and the number of those before this rank's (`World.gather_rows`); set where a
            training has several ranks.
    """

    name: str
    metric_names: tuple[str, ...]
    config_class: type | None = None
    infer_config_class: type | None = None
    finetune_class: type[FinetuneConfig] = FinetuneConfig
    columns: tuple[str, ...] = ()
    whole_batch: bool = False
    has_target: bool = False
    writes_logits: bool = False
    noun: str = "prediction"
    tokenizer: str | None = None
    gather: Callable[[Tensor], tuple[Tensor, int]] = staticmethod(_one_rank)

    @classmethod
    def of_training_file(cls, path: str, config: Any, columns: tuple[str, ...] = ()) -> "Task":
        """Create the task for a training file, for instance with the labels found in it.

        Args:
            path: the training file.
            config: an object of `config_class`.
            columns: names of the columns of a TSV file without a header.

        Raises:
            UserError: the file cannot be read or has no labels to learn.
        """
        raise NotImplementedError

    def examples(self, path: str, encoder: TextToRows, labelled: bool = True) -> Examples:
        """Read a file and convert it to token ids and targets.

        Args:
            path: the file.
            encoder: converts its texts to rows.
            labelled: False at inference, where targets are not read.

        Raises:
            UserError: the file is missing or a line does not fit; named by file and line.
        """
        raise NotImplementedError

    def files(self, path: str) -> list[str]:
        """The files that `examples` reads in training."""
        return [path]

    def evaluation_examples(self, path: str, encoder: TextToRows) -> Examples:
        """The same for a file that is evaluated, such as dev."""
        return self.examples(path, encoder)

    def inputs(self, path: str, encoder: TextToRows) -> InputFile:
        """The examples of a file that is predicted; errors as `examples`. Where there are several pieces, the
        `predictions` of each begin with the same line, the header."""
        examples = self.examples(path, encoder, labelled=False)
        return InputFile(self.inputs_num(examples), examples.skipped, [examples])

    def inputs_num(self, examples: Examples) -> int:
        """The number of predictions for examples: the windows of a long text together make one."""
        return len(examples)

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        """Build the model with random weights.

        Its `forward(batch: Batch)` returns in training what `loss`, and in evaluation what `outputs` calls `predicted`,
        for instance logits (examples, C) of a classifier or (B, S, C) of a tagger. What is not in its `embedding` or
        `encoder` is the head.
        """
        raise NotImplementedError

    def denominator(self, examples: Examples, chosen: np.ndarray) -> float:
        """The number that the summed loss of a batch is divided by, so that the mean is right over all ranks.

        Args:
            examples: the whole training file, on every rank.
            chosen: (examples of the batch,) int64, indices of the batch's examples, those of all ranks together.
        """
        return float(len(chosen))

    def loss(self, predicted: Any, batch: Batch) -> Tensor:
        """The loss summed over the batch's examples.

        Args:
            predicted: what the model's forward returned for this batch, in float32.
            batch: src and seg (B, S), with the targets that `examples` made.

        Returns:
            A tensor without axes, ().
        """
        raise NotImplementedError

    def outputs(self, predicted: Any, batch: Batch) -> list[np.ndarray]:
        """The model's output for each example of the batch, as arrays on the CPU.

        Args:
            predicted: what the model's forward returned for this batch, on any device, maybe in bf16.
            batch: as in `loss`.

        Returns:
            One float32 array of one axis for each example, for instance (words,) tag numbers of a tagger; here the rows
            of `predicted` (B, C), such as a classifier's logits. The length may differ between examples.
        """
        return list(predicted.float().cpu().numpy())

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        """The metrics of a whole file.

        Args:
            outputs: N arrays, what `outputs` returned for each example, in the order of the file.
            examples: the file's N examples, with their targets.

        Returns:
            Values by name; at least those of `metric_names`.
        """
        raise NotImplementedError

    def report(self, outputs: list[np.ndarray], examples: Examples, all_labels: bool = False) -> list[str]:
        """Lines that are printed below the metrics, such as a confusion matrix.

        Args:
            outputs, examples: as in `metrics`.
            all_labels: print a line for every label, even if there are many.
        """
        return []

    def settings(self) -> dict[str, Any]:
        """What `from_settings` needs to create this task again at inference; plain JSON."""
        raise NotImplementedError

    @classmethod
    def of_labels_num(cls, labels_num: int | None) -> "Task":
        """Create the task for weights without a settings file, as UER-py saves them.

        Raises:
            UserError: this task cannot be created from the number of labels alone.
        """
        raise UserError(f"--load_model_path: the task '{cls.name}' needs the settings file beside the weights")

    @classmethod
    def of_weights(cls, labels_num: int | None, flags: Any, state: Mapping[str, Tensor]) -> "Task":
        """Create the task for weights without a settings file.

        Args:
            labels_num: --labels_num, or None.
            flags: an object of `infer_config_class`, or None.
            state: the weights by name; tasks look at the shapes of their output layer.
        """
        return cls.of_labels_num(labels_num).with_flags(flags)

    @classmethod
    def open_tokenizer(cls, config: TokenizerConfig) -> Tokenizer:
        """The tokenizer that the flags describe, or that of this task instead of the default."""
        if cls.tokenizer and config.tokenizer == TokenizerConfig.tokenizer:
            config = replace(config, tokenizer=cls.tokenizer)
        return build_tokenizer(config)

    @staticmethod
    def our_names(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Saved weights by our names, where UER-py's model of this task has others."""
        return state

    def with_flags(self, flags: Any) -> "Task":
        """This task with the flags of inference, an object of `infer_config_class`.

        Raises:
            UserError: a flag contradicts what the model was trained with.
        """
        return self

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """The lines of the prediction file.

        Args:
            outputs, examples: as in `metrics`.
            logits, prob: whether to add columns of logits and probabilities; False unless `writes_logits`.
        """
        raise NotImplementedError

    def input_examples(self, inputs: Sequence[Any], encoder: TextToRows) -> Examples:
        """Convert N inputs in memory to examples without targets: one for each input, or one or more windows.

        Args:
            inputs: texts, pairs, triples or lists of words; see the table in `uer.finetuning.inputs`.
            encoder: converts texts to rows of token ids.

        Raises:
            UserError: an input is not what the task reads; named by its number, counted from 0.
        """
        raise NotImplementedError

    def input_predictions(self, outputs: list[np.ndarray], examples: Examples,
                          inputs: Sequence[Any]) -> list[Prediction]:
        """The prediction for each input, in order.

        Args:
            outputs: one array for each example, see `outputs`.
            examples: what `input_examples` made of the inputs.
            inputs: as the user gave them.
        """
        raise NotImplementedError

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Task":
        """Create the task of a saved model from what `settings` returned."""
        raise NotImplementedError
