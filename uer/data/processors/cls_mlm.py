"""Classification and masked language modelling of the same rows."""

from typing import TYPE_CHECKING, ClassVar

from uer.config import MaskingConfig
from uer.data.draws import Draws
from uer.data.processors.cls import ClassBuilder, class_schema
from uer.data.processors.masked import MaskedProcessor
from uer.data.schema import FIELDS, Column

if TYPE_CHECKING:
    from uer.data.batch import Batch, Rows


class ClsMlmProcessor(MaskedProcessor):
    """`--data_processor cls_mlm`: the rows of `cls`, but a single text ends with [SEP] too; masked as mlm."""

    corpus = FIELDS
    fields = ("", "src", "src")
    field_counts = (2, 3)
    labels = ("mlm", "cls")
    class_columns: ClassVar = {"cls": "label"}
    config_class = MaskingConfig

    def schema(self) -> dict[str, Column]:
        """`split` is the position where the second part begins, S where there is none."""
        return class_schema(super().schema(), self.seq_length)

    def builder(self, draws: Draws, copies: int = 1) -> ClassBuilder:
        """Masks are drawn while training."""
        return ClassBuilder(self.seq_length, self.special_id("cls"), self.special_id("sep"), close=True)

    def batch(self, rows: "Rows") -> "Batch":
        """src and seg (R, S), masked, and the labels `mlm` (R, P) and `cls` (R, 1) at position 0."""
        from uer.data.batch import Batch, Labels, Side
        from uer.data.sides import in_two_parts

        src, seg, labels = self.masked(rows)
        label = rows.columns["label"][:, None]
        return Batch(Side(src, in_two_parts(seg, rows.columns["split"])),
                     {"mlm": labels, "cls": Labels(label, label * 0)}, rows.samples)
