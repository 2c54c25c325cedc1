"""Multi-label classification: any number of labels for each text; the column `label` holds them separated by commas."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import Batch, Examples
from uer.finetuning.heads import Classifier
from uer.finetuning.inputs import Prediction
from uer.finetuning.labels import LabelSet, numbered_labels, shorten
from uer.finetuning.metrics import f1_of_counts
from uer.finetuning.readers import Table, read_table
from uer.finetuning.table_task import TableTask
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import number_words, table_lines

THRESHOLD = 0.5


class MultiLabel(TableTask):
    """Predicts for each label whether the text has it, by the classifier's head and a sigmoid."""

    name = "multi_label"
    metric_names = ("f1", "macro_f1", "accuracy")
    writes_logits = True

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels

    @classmethod
    def of_training_file(cls, path: str, config: Any, columns: tuple[str, ...] = ()) -> "MultiLabel":
        table = read_table(path, ("label", "text_a"), columns=columns)
        names = [name for label in table["label"] for name in split_labels(label)]
        if not names:
            raise UserError(f"{path}: no row has a label")
        return cls(LabelSet.of(names))

    def targets(self, table: Table, encoder: TextToRows) -> dict[str, np.ndarray]:
        """The target `labels` (N, C) float32 of 0 and 1.

        Raises:
            UserError: a label that the training file lacks, named by file and line.
        """
        index = {name: number for number, name in enumerate(self.labels.names)}
        wanted = np.zeros((len(table), len(self.labels)), dtype=np.float32)
        for row, label in enumerate(table["label"]):
            for name in split_labels(label):
                if name not in index:
                    raise table.error(row, f"label '{name}' is not one of the {len(index)} labels of the training "
                                           f"file: {shorten(self.labels.names)}")
                wanted[row, index[name]] = 1.0
        return {"labels": wanted}

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        return Classifier(config, vocab_size, len(self.labels))

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy, averaged over the labels and summed over rows.

        Args:
            predicted: logits (B, C).
            batch: target `labels` (B, C) of 0 and 1.
        """
        each = F.binary_cross_entropy_with_logits(predicted, batch.targets["labels"], reduction="none")
        return each.mean(-1).sum()

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        """Micro F1 over all (row, label) pairs, macro F1 over labels, and the fraction of rows without any error."""
        chosen, wanted = decide(np.stack(outputs)), examples.targets["labels"] > 0.5
        counts = np.stack([(chosen & wanted).sum(0), chosen.sum(0), wanted.sum(0)], axis=1)
        macro = np.mean([f1_of_counts(*map(int, row))["f1"] for row in counts])
        return {**f1_of_counts(*map(int, counts.sum(0))), "macro_f1": float(macro),
                "accuracy": float((chosen == wanted).all(1).mean())}

    def settings(self) -> dict[str, Any]:
        return {"labels": list(self.labels.names)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "MultiLabel":
        return cls(LabelSet(tuple(settings["labels"])))

    @classmethod
    def of_labels_num(cls, labels_num: int | None) -> "MultiLabel":
        return cls(numbered_labels(labels_num))

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """A TSV: labels with commas between, and where wanted logits and probabilities in the order of the labels."""
        stacked = np.stack(outputs)
        columns = {"label": [",".join(name for name, yes in zip(self.labels.names, row) if yes)
                             for row in decide(stacked)]}
        if logits:
            columns["logits"] = number_words(stacked)
        if prob:
            columns["prob"] = number_words(torch.sigmoid(torch.from_numpy(stacked)).numpy())
        return table_lines(columns)

    def input_predictions(self, outputs: list[np.ndarray], examples: Examples,
                          inputs: Sequence[Any]) -> list[Prediction]:
        names = self.labels.names
        return [Prediction(tuple(name for name, yes in zip(names, decide(output)) if yes),
                           dict(zip(names, _sigmoid(output)))) for output in outputs]


def _sigmoid(logits: np.ndarray) -> list[float]:
    """Probabilities of logits (C,), computed by tanh, which does not overflow."""
    return (0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))).tolist()


def split_labels(text: str) -> list[str]:
    """`"a, b"` -> `["a", "b"]`"""
    return [name.strip() for name in text.split(",") if name.strip()]


def decide(logits: np.ndarray) -> np.ndarray:
    """Whether the probability of each label is above 0.5; (..., C) logits -> bool of the same shape."""
    return logits > np.log(THRESHOLD / (1 - THRESHOLD))
