"""Translation: `source TAB target`, each with its own tokenizer."""

from typing import TYPE_CHECKING

import numpy as np

from uer.data.draws import Draws
from uer.data.processors.base import Processor, Ragged, TgtConfig
from uer.data.processors.fields import FieldBuilder, Fields, Mark, assembled
from uer.data.schema import FIELDS, Column

if TYPE_CHECKING:
    from uer.data.batch import Batch, Rows


class MtProcessor(Processor):
    """`--data_processor mt`: [CLS] x [SEP] on both sides, cut at S and at T + 1 tokens; T is `--tgt_seq_length`.

        stored  [CLS] 7 8 [SEP] and [CLS] 5 6 [SEP]
        src  [CLS] 7 8 [SEP]      tgt  [CLS] 5 6 [SEP]      predicted on tgt  5 6 [SEP] -

    UER-py predicts [PAD] behind [SEP], which teaches nothing.
    """

    corpus = FIELDS
    fields = ("src", "tgt")
    field_counts = (2,)
    labels = ("lm",)
    config_class = TgtConfig

    def schema(self) -> dict[str, Column]:
        """Two sequences."""
        return {"src": Column(), "tgt": Column("tgt", vocab="tgt")}

    def lengths(self) -> dict[str, int]:
        """S, and T + 1: the decoder's input and the label of its last position."""
        return {"src": self.seq_length, "tgt": self.config.tgt_seq_length + 1}

    def batch_lengths(self) -> dict[str, int]:
        """S and T"""
        return {"src": self.seq_length, "tgt": self.config.tgt_seq_length}

    def builder(self, draws: Draws, copies: int = 1) -> "TranslationBuilder":
        """Nothing is drawn here."""
        marks = {side: (self.special_id("cls", side), self.special_id("sep", side)) for side in self.fields}
        return TranslationBuilder(self.lengths(), marks)

    def batch(self, rows: "Rows") -> "Batch":
        """src (R, S), tgt (R, T), and labels `lm` (R, T) on the target side: the next token."""
        from uer.data.batch import Batch, Labels
        from uer.data.sides import next_tokens, padded

        sides = {axis: padded(rows, axis, width, self.special_id("pad", axis))
                 for axis, width in self.batch_lengths().items()}
        labels = next_tokens(rows, "tgt", self.config.tgt_seq_length)
        return Batch(sides["src"], {"lm": Labels(labels, side="tgt")}, rows.samples, sides["tgt"])


class TranslationBuilder(FieldBuilder):
    """Both fields between [CLS] and [SEP].

    Args:
        lengths: the most tokens of each sequence.
        marks: the ids of [CLS] and [SEP] of each.
    """

    def __init__(self, lengths: dict[str, int], marks: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self.lengths, self.marks = lengths, marks

    def instances(self, fields: Fields, kept: np.ndarray) -> tuple[dict[str, Ragged], dict[str, np.ndarray]]:
        made = {}
        for (axis, length), field in zip(self.lengths.items(), fields):
            begin, end = self.marks[axis]
            made[axis] = assembled([Mark(begin), field, Mark(end)], kept, length)
        return made, {}
