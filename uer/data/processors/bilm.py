"""Two language models, one in each direction (Peters et al., 2018, ELMo)."""

from typing import TYPE_CHECKING

from uer.data.draws import Draws
from uer.data.processors.base import Processor
from uer.data.processors.lines import LineBuilder

if TYPE_CHECKING:
    from uer.data.batch import Batch, Rows


class BilmProcessor(Processor):
    """`--data_processor bilm`: the ids alone, cut every S tokens.

        src  7 8 9      forward labels  8 9 [SEP]      backward labels  [CLS] 7 8
    """

    labels = ("bilm",)

    def builder(self, draws: Draws, copies: int = 1) -> LineBuilder:
        """Nothing is drawn here."""
        return LineBuilder(self.seq_length, None, None)

    def batch(self, rows: "Rows") -> "Batch":
        """Rows of up to S tokens -> src and seg (R, S), and labels `bilm` (R, S, 2): forward, backward."""
        import torch  # `preprocess.py` does without it

        from uer.data.batch import IGNORED, Batch, Labels
        from uer.data.sides import padded

        src = padded(rows, "src", self.seq_length, self.special_id("pad"))
        positions, last = torch.arange(self.seq_length, device=src.seg.device), rows.lengths["src"][:, None] - 1
        forward = torch.where(positions == last, self.special_id("sep"), src.values.roll(-1, dims=1))
        backward = torch.where(positions == 0, self.special_id("cls"), src.values.roll(1, dims=1))
        labels = torch.where(src.seg[:, :, None] > 0, torch.stack([forward, backward], dim=2), IGNORED)
        return Batch(src, {"bilm": Labels(labels)}, rows.samples)
