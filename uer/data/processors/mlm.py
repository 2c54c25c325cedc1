"""Masked language model (Devlin et al., 2019, without pairs; Liu et al., 2019): a document is a line."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uer.config import MaskingConfig
from uer.data.draws import Draws
from uer.data.processors.lines import LineBuilder, LineConfig
from uer.data.processors.masked import MaskedProcessor

if TYPE_CHECKING:
    from uer.data.batch import Batch, Rows


@dataclass(frozen=True)
class MlmConfig(MaskingConfig, LineConfig):
    """Masked language model"""


class MlmProcessor(MaskedProcessor):
    """`--data_processor mlm`: [CLS] + ids + [SEP], cut every `seq_length` tokens."""

    labels = ("mlm",)
    config_class = MlmConfig

    @property
    def joined(self) -> bool:
        """With --full_sentences."""
        return self.config.full_sentences

    def builder(self, draws: Draws, copies: int = 1) -> LineBuilder:
        """Nothing is drawn here."""
        return LineBuilder(self.seq_length, self.special_id("cls"), self.special_id("sep"), self.joined)

    def batch(self, rows: "Rows") -> "Batch":
        """Rows of up to S tokens -> src and seg (R, S), masked, and the labels `mlm` (R, P)."""
        from uer.data.batch import Batch, Side

        src, seg, labels = self.masked(rows)
        return Batch(Side(src, seg), {"mlm": labels}, rows.samples)
