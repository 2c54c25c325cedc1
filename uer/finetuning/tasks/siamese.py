"""Siamese classification: one label for a pair of texts, each of which the same backbone encodes separately."""

from collections.abc import Sequence
from typing import Any

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import Examples
from uer.finetuning.heads import SiameseClassifier
from uer.finetuning.inputs import text_pairs
from uer.finetuning.readers import Table
from uer.finetuning.rows import Ragged, Sequences
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import Classification


class Siamese(Classification):
    """Classifies pairs; each example has two rows, [CLS] text_a [SEP] and [CLS] text_b [SEP]."""

    name = "siamese"

    def of_table(self, table: Table, encoder: TextToRows, labelled: bool) -> Examples:
        if "text_b" not in table:
            raise UserError(f"{table.path}: no column 'text_b'; a siamese model reads pairs")
        return super().of_table(table, encoder, labelled)

    def of_texts(self, first: Sequence[str], second: Sequence[str], encoder: TextToRows) -> Examples:
        return Examples(interleave(encoder.sequences(first), encoder.sequences(second)), ways=2)

    def input_examples(self, inputs: Sequence[Any], encoder: TextToRows) -> Examples:
        return self.of_texts(*text_pairs(inputs, self.name), encoder)

    def build(self, config: ModelConfig, vocab_size: int) -> SiameseClassifier:
        return SiameseClassifier(config, vocab_size, len(self.labels))


def interleave(first: Sequences, second: Sequences) -> Sequences:
    """Put the rows of pairs next to each other: row i of `first` becomes row 2i, row i of `second` row 2i + 1.

    The rows a0 a1 a2 and b0 b1 b2 become a0 b0 a1 b1 a2 b2. All tokens are segment 1.
    """
    rows = [part.tokens[row] for row in range(len(first)) for part in (first, second)]
    tokens = Ragged.of(rows)
    return Sequences(tokens, tokens.offsets[1:] - tokens.offsets[:-1])
