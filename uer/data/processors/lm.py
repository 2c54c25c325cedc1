"""Language model: every token is predicted from those before it."""

from typing import TYPE_CHECKING

from uer.data.draws import Draws
from uer.data.processors.base import Processor
from uer.data.processors.lines import LineBuilder, LineConfig

if TYPE_CHECKING:
    from uer.data.batch import Batch, Rows


class LmProcessor(Processor):
    """`--data_processor lm`: [CLS] + ids + [SEP], cut every S + 1 tokens without overlap.

        stored  [CLS] 7 8 [SEP]     src  [CLS] 7 8 [SEP] [PAD]     predicted  7 8 [SEP]  -  -      (S = 5)

    The last token and padding have no label. In UER-py their label is [PAD], which teaches a model nothing.
    """

    labels = ("lm",)
    config_class = LineConfig

    @property
    def joined(self) -> bool:
        """With --full_sentences."""
        return self.config.full_sentences

    def lengths(self) -> dict[str, int]:
        """S inputs and the label of the last one."""
        return {"src": self.seq_length + 1}

    def batch_lengths(self) -> dict[str, int]:
        """S"""
        return {"src": self.seq_length}

    def builder(self, draws: Draws, copies: int = 1) -> LineBuilder:
        """Nothing is drawn here."""
        return LineBuilder(self.seq_length + 1, self.special_id("cls"), self.special_id("sep"), self.joined)

    def batch(self, rows: "Rows") -> "Batch":
        """Rows of up to S + 1 tokens -> src, seg and labels `lm` (R, S)."""
        from uer.data.batch import Batch, Labels  # imports torch, which `preprocess.py` avoids
        from uer.data.sides import next_tokens, padded

        labels = Labels(next_tokens(rows, "src", self.seq_length))
        return Batch(padded(rows, "src", self.seq_length, self.special_id("pad")), {"lm": labels}, rows.samples)
