"""Regression: a number for a text or a pair of texts, such as the similarity of two sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from uer.config import ModelConfig
from uer.finetuning.batches import Batch, Examples
from uer.finetuning.heads import Classifier
from uer.finetuning.inputs import Prediction
from uer.finetuning.metrics import correlations
from uer.finetuning.readers import Table
from uer.finetuning.table_task import TableTask
from uer.finetuning.task import TextToRows


class Regression(TableTask):
    """Predicts a number by the classifier's head with one output; the loss is the squared error."""

    name = "regression"
    metric_names = ("spearman", "pearson")

    @classmethod
    def of_training_file(cls, path: str, config: Any, columns: tuple[str, ...] = ()) -> "Regression":
        return cls()

    def targets(self, table: Table, encoder: TextToRows) -> dict[str, np.ndarray]:
        """The target `label` (N,) float32."""
        return {"label": read_numbers(table)}

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        return Classifier(config, vocab_size, 1)

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Squared error of predictions (B, 1) and target `label` (B,), summed over rows."""
        return (predicted[:, 0] - batch.targets["label"]).square().sum()

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        return correlations(np.stack(outputs)[:, 0].astype(np.float64), examples.targets["label"].astype(np.float64))

    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Regression":
        return cls()

    @classmethod
    def of_labels_num(cls, labels_num: int | None) -> "Regression":
        return cls()

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """A TSV of one column."""
        return ["label", *(f"{output[0]:.9g}" for output in outputs)]

    def input_predictions(self, outputs: list[np.ndarray], examples: Examples,
                          inputs: Sequence[Any]) -> list[Prediction]:
        return [Prediction(float(output[0])) for output in outputs]


def read_numbers(table: Table) -> np.ndarray:
    """The labels as float32 (rows,).

    Raises:
        UserError: a label that is not a finite number, named by file and line.
    """
    numbers = np.empty(len(table), dtype=np.float32)
    for row, text in enumerate(table["label"]):
        try:
            numbers[row] = float(text)
        except ValueError:
            raise table.error(row, f"the label '{text}' is not a number") from None
        if not np.isfinite(numbers[row]):
            raise table.error(row, f"the label '{text}' is not a finite number")
    return numbers
