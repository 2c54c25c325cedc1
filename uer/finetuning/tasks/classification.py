"""Classification: one label for a text or a pair of texts; optionally with distillation from a teacher's logits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import Batch, Examples
from uer.finetuning.config import ClassifierConfig
from uer.finetuning.heads import Classifier
from uer.finetuning.inputs import Prediction, likeliest, softmax
from uer.finetuning.labels import LabelSet, numbered_labels, parse_logits, train_labels
from uer.finetuning.metrics import classification, confusion_matrix, label_scores
from uer.finetuning.readers import Table, read_table
from uer.finetuning.table_task import TableTask
from uer.finetuning.task import TextToRows

MOST_LABELS = 20  # up to so many labels, a report shows each
SHOWN_LABELS = 10  # of more labels, it shows the ten worst and the ten best


class Classification(TableTask):
    """Predicts one of C labels.

    Args:
        labels: names of the labels; output c of the model stands for `labels.names[c]`.
        weights: (C,) float32, a loss weight for each label; None: all are 1.
        soft_alpha: weight of the distillation loss; None: no distillation.
        pairs: whether the training file has a column `text_b`; other files must agree. None if unknown.
    """

    name = "classifier"
    metric_names = ("accuracy", "macro_f1")
    config_class = ClassifierConfig
    writes_logits = True
    optional_columns = ("text_b", "logits")
    labels_source = "the training file"
    """What the labels come from, for messages."""

    def __init__(self, labels: LabelSet, weights: np.ndarray | None = None, soft_alpha: float | None = None,
                 pairs: bool | None = None) -> None:
        self.labels = labels
        self.weights = weights
        self.soft_alpha = soft_alpha
        self.pairs = pairs

    @classmethod
    def of_training_file(cls, path: str, config: ClassifierConfig,
                         columns: tuple[str, ...] = ()) -> "Classification":
        table = read_table(path, ("label", "text_a"), ("text_b", "logits"), columns)
        labels = train_labels(table)
        if config.soft_targets and "logits" not in table:
            raise UserError(f"{path}: --soft_targets needs a column 'logits'")
        weights = balanced_weights(labels.numbers(table), len(labels)) if config.class_weights == "balanced" else None
        return cls(labels, weights, config.soft_alpha if config.soft_targets else None, "text_b" in table)

    def of_table(self, table: Table, encoder: TextToRows, labelled: bool) -> Examples:
        if self.pairs is not None and self.pairs != ("text_b" in table):
            raise UserError(f"{table.path}: " + (
                "no column 'text_b', but the model is trained on pairs of texts" if self.pairs else
                "a column 'text_b', but the model is trained on single texts"))
        return super().of_table(table, encoder, labelled)

    def targets(self, table: Table, encoder: TextToRows) -> dict[str, np.ndarray]:
        """The targets `label` (N,) int64 and, with distillation, `soft` (N, C) float32."""
        targets = {"label": self.labels.numbers(table, source=self.labels_source)}
        if self.soft_alpha is not None and "logits" in table:
            targets["soft"] = parse_logits(table, len(self.labels))
        return targets

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        return Classifier(config, vocab_size, len(self.labels))

    def denominator(self, examples: Examples, chosen: np.ndarray) -> float:
        return float(len(chosen) if self.weights is None else self.weights[examples.targets["label"][chosen]].sum())

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy summed over rows; with distillation, mixed with the squared error to the teacher's logits.

        loss = soft_alpha * mean over labels of (predicted - soft)^2 + (1 - soft_alpha) * cross-entropy

        Args:
            predicted: logits (B, C).
            batch: targets `label` (B,) and, with distillation, `soft` (B, C).
        """
        weight = None if self.weights is None else torch.from_numpy(self.weights).to(predicted)
        hard = F.cross_entropy(predicted, batch.targets["label"], weight=weight, reduction="none")
        if self.soft_alpha is None:
            return hard.sum()
        soft = (predicted - batch.targets["soft"]).square().mean(-1)
        if weight is not None:
            soft = soft * weight[batch.targets["label"]]
        return (self.soft_alpha * soft + (1.0 - self.soft_alpha) * hard).sum()

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        return classification(np.stack(outputs).argmax(-1), examples.targets["label"], len(self.labels))

    def report(self, outputs: list[np.ndarray], examples: Examples, all_labels: bool = False) -> list[str]:
        predicted = np.stack(outputs).argmax(-1)
        return report_lines(confusion_matrix(predicted, examples.targets["label"], len(self.labels)),
                            self.labels.names, all_labels)

    def settings(self) -> dict[str, Any]:
        return {"labels": list(self.labels.names), "pairs": self.pairs}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Classification":
        return cls(LabelSet(tuple(settings["labels"])), pairs=settings.get("pairs"))

    @classmethod
    def of_labels_num(cls, labels_num: int | None) -> "Classification":
        return cls(numbered_labels(labels_num))

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """A TSV: label, and where wanted logits and probabilities in the order of the labels."""
        stacked = np.stack(outputs)
        columns = {"label": [self.labels.names[number] for number in stacked.argmax(-1)]}
        if logits:
            columns["logits"] = number_words(stacked)
        if prob:
            columns["prob"] = number_words(softmax(stacked))
        return table_lines(columns)

    def input_predictions(self, outputs: list[np.ndarray], examples: Examples,
                          inputs: Sequence[Any]) -> list[Prediction]:
        return [likeliest(output, self.labels.names) for output in outputs]


def number_words(rows: np.ndarray) -> list[str]:
    """Each row of (N, C) as text: numbers separated by spaces, with enough digits to read the same float32 again."""
    return [" ".join(f"{value:.9g}" for value in row) for row in rows]


def table_lines(columns: Mapping[str, Iterable[str]]) -> list[str]:
    """The lines of a TSV: the names of the columns, then their values."""
    return ["\t".join(columns), *map("\t".join, zip(*columns.values()))]


def balanced_weights(numbers: np.ndarray, labels_num: int) -> np.ndarray:
    """Loss weights examples / (labels * examples of the label), so that the weights of each label have the same sum.

    >>> balanced_weights(np.array([0, 0, 0, 0, 1, 1]), 2).tolist()
    [0.75, 1.5]

    Args:
        numbers: (N,) int64, the label of each example.

    Returns:
        (labels_num,) float32.
    """
    counts = np.bincount(numbers, minlength=labels_num)
    return (len(numbers) / (labels_num * np.maximum(counts, 1))).astype(np.float32)


def report_lines(matrix: np.ndarray, names: Sequence[str], all_labels: bool = False) -> list[str]:
    """The confusion matrix, then precision, recall and F1 of each label, as lines of text.

    With more than MOST_LABELS labels there is no matrix, and unless `all_labels` is true, only the labels with the
    lowest and the highest F1 are shown, among those that occur in the examples.

    Args:
        matrix: (C, C), rows are predictions and columns are correct labels.
        names: the C labels.
    """
    scores, counts = label_scores(matrix), matrix.sum(axis=0)
    few = len(names) <= MOST_LABELS
    lines = []
    if few:
        width = len(str(matrix.max()))
        lines.append("Confusion matrix (rows: predicted label, columns: correct label):")
        lines += ["  " + " ".join(f"{count:>{width}}" for count in row) for row in matrix]
    if few or all_labels:
        return [*lines, "Precision, recall, F1 of each label:",
                *(_label_line(names[number], scores[number]) for number in range(len(names)))]
    present = [number for number in range(len(names)) if counts[number]]
    ordered = sorted(present, key=lambda number: (scores[number, 2], names[number]))
    shown = min(SHOWN_LABELS, len(ordered) // 2)
    absent = len(names) - len(present)
    lines.append(f"{len(names)} labels{f', {absent} of them without examples' if absent else ''}; F1: "
                 f"median {np.median(scores[present, 2]):.3f}, {int((scores[present, 2] == 0).sum())} labels with F1 0 "
                 "(--report_all_labels shows all labels)")
    for title, chosen in (("worst", ordered[:shown]), ("best", ordered[len(ordered) - shown:][::-1])):
        lines.append(f"Precision, recall, F1 of the {shown} {title} labels:")
        lines += [f"{_label_line(names[number], scores[number])} ({counts[number]} examples)" for number in chosen]
    return lines


def _label_line(name: str, scores: np.ndarray) -> str:
    return "  Label {}: {:.3f}, {:.3f}, {:.3f}".format(name, *scores)
