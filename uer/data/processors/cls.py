"""Classification: `label TAB text` or `label TAB first TAB second`, the label a number from 0 on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from uer.data.draws import Draws
from uer.data.processors.base import Processor, Ragged
from uer.data.processors.fields import FieldBuilder, Fields, Mark, assembled, without_tokens
from uer.data.processors.pairs import split_dtype
from uer.data.schema import FIELDS, INSTANCE, Column

if TYPE_CHECKING:
    from uer.data.batch import Batch, Rows

LARGEST_LABEL = (1 << 16) - 1


class ClsProcessor(Processor):
    """`--data_processor cls`: the text as one or two parts, cut at S tokens, and the label of the row.

        0 TAB 7 8           [CLS] 7 8                     seg  1 1 1           (no [SEP], as in UER-py)
        1 TAB 7 8 TAB 9     [CLS] 7 8 [SEP] 9 [SEP]       seg  1 1 1 1 2 2
    """

    corpus = FIELDS
    fields = ("", "src", "src")
    field_counts = (2, 3)
    labels = ("cls",)
    class_columns: ClassVar = {"cls": "label"}

    def schema(self) -> dict[str, Column]:
        """`split` is the position where the second part begins, S where there is none."""
        return class_schema(super().schema(), self.seq_length)

    def builder(self, draws: Draws, copies: int = 1) -> "ClassBuilder":
        """Nothing is drawn here."""
        return ClassBuilder(self.seq_length, self.special_id("cls"), self.special_id("sep"), close=False)

    def batch(self, rows: "Rows") -> "Batch":
        """src and seg (R, S), and the labels `cls` (R, 1) at position 0."""
        from uer.data.batch import Batch, Labels, Side
        from uer.data.sides import in_two_parts, padded

        src = padded(rows, "src", self.seq_length, self.special_id("pad"))
        label = rows.columns["label"][:, None]
        return Batch(Side(src.values, in_two_parts(src.seg, rows.columns["split"])),
                     {"cls": Labels(label, label * 0)}, rows.samples)


def class_schema(columns: dict[str, Column], seq_length: int) -> dict[str, Column]:
    """The columns of rows with a label, given those of their tokens."""
    return {**columns, "split": Column(INSTANCE, split_dtype(seq_length)), "label": Column(INSTANCE, "uint16")}


class ClassBuilder(FieldBuilder):
    """Rows with labels.

    Args:
        size: tokens of a row at most.
        cls_id, sep_id: the ids of the special tokens.
        close: put [SEP] behind a text of one part too.
    """

    def __init__(self, size: int, cls_id: int, sep_id: int, close: bool) -> None:
        super().__init__()
        self.size, self.cls_id, self.sep_id, self.close = size, cls_id, sep_id, close

    def problems(self, fields: Fields) -> Mapping[str, np.ndarray]:
        """A label that is no number, or no text."""
        return {f"the label is no whole number from 0 to {LARGEST_LABEL:,}": _labels(fields[0]) < 0,
                **without_tokens(fields, 2)}

    def instances(self, fields: Fields, kept: np.ndarray) -> tuple[dict[str, Ragged], dict[str, np.ndarray]]:
        label, first, second = _labels(fields[0]), fields[1], fields[2]
        pair = second.lengths > 0
        parts = [Mark(self.cls_id), first, Mark(self.sep_id, None if self.close else pair), second,
                 Mark(self.sep_id, pair)]
        split = np.where(pair, np.minimum(first.lengths + 2, self.size), self.size)
        return {"src": assembled(parts, kept, self.size)}, {
            "split": split[kept].astype(split_dtype(self.size)), "label": label[kept].astype(np.uint16)}


def _labels(texts: list[str]) -> np.ndarray:
    """The labels as numbers, (lines,) int64; -1 where it is none."""
    numbers = {text: _number(text.strip()) for text in set(texts)}
    return np.array([numbers[text] for text in texts], np.int64)


def _number(text: str) -> int:
    plain = text.isascii() and text.isdecimal() and len(text.lstrip("0")) <= len(str(LARGEST_LABEL))
    return int(text) if plain and int(text) <= LARGEST_LABEL else -1
