"""SimCSE: sentence vectors by contrastive learning (Gao et al., 2021, https://arxiv.org/abs/2104.08821).

The two rows of an example are a positive pair; the rows of all other examples of the batch are its negatives. If the
training file has a column `text_b`, it gives the pairs; if not, each text is paired with itself, and its two vectors
differ by dropout. Dev and test files hold pairs with a number for their similarity.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import Batch, Examples
from uer.finetuning.config import SimcseConfig
from uer.finetuning.heads import SentenceEncoder
from uer.finetuning.inputs import Prediction, text_pairs
from uer.finetuning.metrics import correlations
from uer.finetuning.readers import read_table
from uer.finetuning.task import Task, TextToRows
from uer.finetuning.tasks.regression import read_numbers
from uer.finetuning.tasks.siamese import interleave


class Simcse(Task):
    """Trains sentence vectors; the output for a pair is the cosine similarity. There is no head.

    Args:
        temperature: cosine similarities are divided by this before the softmax.
    """

    name = "simcse"
    metric_names = ("spearman", "pearson")
    config_class = SimcseConfig
    whole_batch = True

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    @classmethod
    def of_training_file(cls, path: str, config: SimcseConfig, columns: tuple[str, ...] = ()) -> "Simcse":
        return cls(config.temperature)

    def examples(self, path: str, encoder: TextToRows, labelled: bool = True) -> Examples:
        table = read_table(path, ("text_a",), ("text_b",), self.columns)
        if len(table) < 2:
            raise UserError(f"{path}: one example only; contrastive learning needs at least two")
        first = encoder.sequences(table["text_a"])
        second = encoder.sequences(table["text_b"]) if "text_b" in table else first
        return Examples(interleave(first, second), ways=2, hash=table.hash, skipped=table.skipped)

    def evaluation_examples(self, path: str, encoder: TextToRows) -> Examples:
        table = read_table(path, ("label", "text_a", "text_b"), columns=self.columns)
        rows = interleave(encoder.sequences(table["text_a"]), encoder.sequences(table["text_b"]))
        return Examples(rows, ways=2, targets={"label": read_numbers(table)}, hash=table.hash,
                        skipped=table.skipped)

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        return SentenceEncoder(config, vocab_size)

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of finding the second text of each pair among the second texts of the batch, those of all
        ranks; summed over this rank's pairs.

        Args:
            predicted: vectors (2 * pairs, H); rows 2i and 2i + 1 are pair i.
            batch: not used.
        """
        # (2 * pairs, H) -> (pairs, 2, H) -> twice (pairs, H); with P pairs of all ranks the similarities are (pairs, P)
        first, second = F.normalize(predicted, dim=-1).view(-1, 2, predicted.shape[-1]).unbind(1)
        every, before = self.gather(second)
        similarity = first @ every.T / self.temperature
        own = torch.arange(before, before + len(first), device=first.device)  # the column of each row's second text
        return F.cross_entropy(similarity, own, reduction="sum")

    def outputs(self, predicted: Tensor, batch: Batch) -> list[np.ndarray]:
        """(1,) cosine similarity for each pair of vectors (2 * pairs, H)."""
        first, second = predicted.float().view(-1, 2, predicted.shape[-1]).unbind(1)
        return list(F.cosine_similarity(first, second)[:, None].cpu().numpy())

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        scores = correlations(np.stack(outputs)[:, 0].astype(np.float64), examples.targets["label"].astype(np.float64))
        return {name: scores[name] for name in self.metric_names}

    def input_examples(self, inputs: Sequence[Any], encoder: TextToRows) -> Examples:
        return Examples(interleave(*map(encoder.sequences, text_pairs(inputs, self.name))), ways=2)

    def input_predictions(self, outputs: list[np.ndarray], examples: Examples,
                          inputs: Sequence[Any]) -> list[Prediction]:
        return [Prediction(float(output[0])) for output in outputs]

    def settings(self) -> dict[str, Any]:
        return {"temperature": self.temperature}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Simcse":
        return cls(settings["temperature"])
