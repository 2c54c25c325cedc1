"""Multi-task classification: several datasets, each with labels and a head of its own, train one backbone.

A training batch holds examples of one dataset; the batches of all datasets come in random order. At inference every
head labels every text.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import Batch, Examples
from uer.finetuning.config import MultiTaskConfig, MultiTaskFinetuneConfig, MultiTaskInferConfig
from uer.finetuning.heads import PooledModel
from uer.finetuning.inputs import Prediction, softmax
from uer.finetuning.labels import LabelSet, numbered_labels, train_labels
from uer.finetuning.metrics import classification, confusion_matrix
from uer.finetuning.readers import read_table
from uer.finetuning.rows import Ragged, Sequences, content_hash
from uer.finetuning.table_task import TableTask
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import number_words, report_lines, table_lines
from uer.layers.linear import Linear, ScoreLinear


@dataclass(frozen=True)
class Dataset:
    """Holds the name and the labels of a dataset, and its folder in training."""

    name: str
    labels: LabelSet
    folder: str = ""


class MultiTaskClassifier(PooledModel):
    """Applies to each row's vector the heads of several datasets: output_layers_1.i, tanh and output_layers_2.i."""

    def __init__(self, config: ModelConfig, vocab_size: int, labels_nums: Sequence[int]) -> None:
        super().__init__(config, vocab_size)
        self.output_layers_1 = nn.ModuleList(Linear(config.hidden_size, config.hidden_size) for _ in labels_nums)
        self.output_layers_2 = nn.ModuleList(ScoreLinear(config.hidden_size, number) for number in labels_nums)

    def forward(self, batch: Batch) -> Tensor:
        """The logits of all heads next to each other, (B, sum of C).

        In training a head that no row of the batch needs is not computed, so that an update leaves it as it is; its
        logits are 0.
        """
        pooled = self.pooled(batch)
        needed = set(batch.targets["dataset"].tolist()) if self.training else range(len(self.output_layers_1))
        return torch.cat([
            last(torch.tanh(first(pooled))) if number in needed else pooled.new_zeros(len(pooled), last.out_features)
            for number, (first, last) in enumerate(zip(self.output_layers_1, self.output_layers_2))], dim=1)


class MultiTask(TableTask):
    """Predicts a label of every dataset.

    Args:
        datasets: the datasets, in the order of the heads.
    """

    name = "classifier_mt"
    metric_names = ("accuracy",)
    config_class = MultiTaskConfig
    infer_config_class = MultiTaskInferConfig
    finetune_class = MultiTaskFinetuneConfig
    writes_logits = True

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self.datasets = tuple(datasets)
        # (datasets + 1,): the logits of dataset i are the columns ends[i] .. ends[i + 1] - 1
        self.ends = np.cumsum([0, *(len(dataset.labels) for dataset in datasets)])

    @classmethod
    def of_training_file(cls, path: str, config: MultiTaskConfig, columns: tuple[str, ...] = ()) -> "MultiTask":
        """Create the task for the file `path` in each folder of --dataset_path_list."""
        found: list[Dataset] = []
        for folder in config.dataset_path_list:
            labels = train_labels(read_table(os.path.join(folder, path), ("label", "text_a"), ("text_b",), columns))
            name = Path(folder).resolve().name
            taken = name in (dataset.name for dataset in found)
            found.append(Dataset(f"{name}_{len(found)}" if taken else name, labels, folder))
        return cls(found)

    def files(self, path: str) -> list[str]:
        return [os.path.join(dataset.folder, path) for dataset in self.datasets]

    def examples(self, path: str, encoder: TextToRows, labelled: bool = True) -> Examples:
        """The examples of the file `path` in every folder; without labels those of the file `path` alone."""
        if not labelled:
            return super().examples(path, encoder, labelled)
        tables = [read_table(file, ("label", "text_a"), ("text_b",), self.columns) for file in self.files(path)]
        rows = joined([encoder.sequences(table["text_a"], table.get("text_b")) for table in tables])
        numbers = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        labels = np.concatenate([dataset.labels.numbers(table) for dataset, table in zip(self.datasets, tables)])
        return Examples(rows, targets={"label": labels, "dataset": numbers}, groups=numbers,
                        hash=content_hash([table.hash for table in tables]),
                        skipped=sum((table.skipped for table in tables), start=type(tables[0].skipped)()))

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        return MultiTaskClassifier(config, vocab_size, [len(dataset.labels) for dataset in self.datasets])

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy over the labels of each row's own dataset, summed over rows.

        Args:
            predicted: logits (B, sum of C).
            batch: targets `dataset` and `label` (B,), the label's number in its dataset.
        """
        owner = torch.arange(len(self.datasets)).repeat_interleave(torch.from_numpy(np.diff(self.ends)))
        ends, own = torch.from_numpy(self.ends).to(predicted.device), batch.targets["dataset"]
        logits = predicted.masked_fill(owner.to(own)[None] != own[:, None], float("-inf"))
        return F.cross_entropy(logits, batch.targets["label"] + ends[own], reduction="sum")

    def _parts(self, outputs: list[np.ndarray]) -> list[np.ndarray]:
        """The logits (N, C) of every dataset's head."""
        return np.split(np.stack(outputs), self.ends[1:-1], axis=1)

    def _own(self, outputs: list[np.ndarray], examples: Examples) -> list[tuple[Dataset, np.ndarray, np.ndarray]]:
        """For each dataset the predicted and the correct label numbers of its own examples, (n,) both."""
        chosen = [examples.targets["dataset"] == number for number in range(len(self.datasets))]
        return [(dataset, logits[rows].argmax(-1), examples.targets["label"][rows])
                for dataset, logits, rows in zip(self.datasets, self._parts(outputs), chosen)]

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        """The accuracy on each dataset, and their mean, `accuracy`."""
        each = {f"accuracy_{dataset.name}": classification(predicted, gold, len(dataset.labels))["accuracy"]
                for dataset, predicted, gold in self._own(outputs, examples)}
        return {"accuracy": float(np.mean(list(each.values()))), **each}

    def report(self, outputs: list[np.ndarray], examples: Examples, all_labels: bool = False) -> list[str]:
        return [line for dataset, predicted, gold in self._own(outputs, examples) for line in (
            f"{dataset.name}:",
            *report_lines(confusion_matrix(predicted, gold, len(dataset.labels)), dataset.labels.names, all_labels))]

    def settings(self) -> dict[str, Any]:
        return {"datasets": [{"name": dataset.name, "labels": list(dataset.labels.names)}
                             for dataset in self.datasets]}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "MultiTask":
        return cls([Dataset(each["name"], LabelSet(tuple(each["labels"]))) for each in settings["datasets"]])

    def with_flags(self, flags: MultiTaskInferConfig) -> "MultiTask":
        numbers = tuple(len(dataset.labels) for dataset in self.datasets)
        if flags.labels_num_list not in ((), numbers):
            raise UserError(f"--labels_num_list {' '.join(map(str, flags.labels_num_list))}: the model has "
                            f"{' '.join(map(str, numbers))} labels")
        return self

    @classmethod
    def of_weights(cls, labels_num: int | None, flags: MultiTaskInferConfig,
                   state: Mapping[str, Tensor]) -> "MultiTask":
        if not flags.labels_num_list:
            raise UserError("--labels_num_list is required: there is no settings file beside --load_model_path")
        return cls([Dataset(str(number), numbered_labels(labels))
                    for number, labels in enumerate(flags.labels_num_list)])

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """A TSV: label, and where wanted logits and probabilities; in each column the datasets' values joined by |."""
        parts = self._parts(outputs)
        columns = {"label": [dataset.labels.numbers_to_names(part.argmax(-1))
                             for dataset, part in zip(self.datasets, parts)]}
        if logits:
            columns["logits"] = [number_words(part) for part in parts]
        if prob:
            columns["prob"] = [number_words(softmax(part)) for part in parts]
        return table_lines({name: map("|".join, zip(*each)) for name, each in columns.items()})

    def input_predictions(self, outputs: list[np.ndarray], examples: Examples,
                          inputs: Sequence[Any]) -> list[Prediction]:
        labels = [dataset.labels.numbers_to_names(part.argmax(-1))
                  for dataset, part in zip(self.datasets, self._parts(outputs))]
        return [Prediction(row) for row in zip(*labels)]


def joined(parts: Sequence[Sequences]) -> Sequences:
    """The rows of several `Sequences`, one after another."""
    rows = [part.tokens[row] for part in parts for row in range(len(part))]
    return Sequences(Ragged.of(rows), np.concatenate([part.first for part in parts]))
