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

        from uer.data.batch import IGNORED, Batch, Labels, Side

        stored, lengths = rows.columns["src"], rows.lengths["src"][:, None]
        positions = torch.arange(self.seq_length, device=stored.device)
        real = positions < lengths
        src = torch.where(real, stored, self.special_id("pad"))
        forward = torch.where(positions == lengths - 1, self.special_id("sep"), src.roll(-1, dims=1))
        backward = torch.where(positions == 0, self.special_id("cls"), src.roll(1, dims=1))
        labels = torch.where(real[:, :, None], torch.stack([forward, backward], dim=2), IGNORED)
        return Batch(Side(src, real.long()), {"bilm": Labels(labels)}, rows.samples)
