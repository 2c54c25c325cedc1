"""T5's pretraining data (Raffel et al., 2020): spans are hidden behind sentinels, and the decoder writes them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uer.data.processors.mlm import MlmConfig, MlmProcessor
from uer.data.schema import VocabInfo
from uer.errors import UserError

if TYPE_CHECKING:
    from uer.data.batch import Batch, Rows
    from uer.data.noise import SpanCorruption

FEWEST_SENTINELS = 2  # one for a run, one behind the last run


class T5Processor(MlmProcessor):
    """`--data_processor t5`: instances as mlm's; what mlm would predict is hidden, whatever it would become.

        stored  [CLS] a b c d e f [SEP]      predicted by mlm  b c f

        src     [CLS] a <0> d e <1> [SEP]        decoder  [CLS] <0> b c <1> f <2>     labels  <0> b c <1> f <2> [SEP]

    The sentinels <0>, <1>, ... are the vocabulary's entries <extra_id_0>, <extra_id_1>, ...

    Raises:
        UserError: the vocabulary has fewer than two.
    """

    labels = ("lm",)
    config_class = MlmConfig

    def __init__(self, seq_length: int, config: Any, vocabs: Mapping[str, VocabInfo]) -> None:
        super().__init__(seq_length, config, vocabs)
        known = vocabs["src"].special_ids
        self.sentinels = known["last_sentinel"] - known["sentinel"] + 1 if "last_sentinel" in known else 0
        if self.sentinels < FEWEST_SENTINELS:
            raise UserError(f"--data_processor t5 needs a vocabulary with the entries <extra_id_0>, <extra_id_1>, ... "
                            f"with consecutive ids, and this one has {self.sentinels or 'none'} of them; Chinese ones "
                            "have them in google_zh_with_sentinel_vocab.txt")

    def batch_lengths(self) -> dict[str, int]:
        """S, and as many positions as the longest target of a row of S tokens takes."""
        from uer.data.masking import budget  # torch

        corrupted = budget(self.seq_length, self.config.mask_rate)
        return {"src": self.seq_length, "tgt": self._corruption().width(corrupted) - 1}

    def batch(self, rows: "Rows") -> "Batch":
        """Rows of up to S tokens -> src and seg (R, S), tgt (R, T) and labels `lm` (R, T) of the side "tgt"."""
        from uer.data.batch import Batch
        from uer.data.sides import decoder_side

        src, _, real = self.padded(rows)
        positions, _ = self.masker(src.device).choose(src, real, rows.lengths["src"], rows.keys,
                                                      rows.columns.get("word_start"))
        source, targets, lengths = self._corruption()(src, real, positions)
        tgt, labels = decoder_side(targets, lengths, self.special_id("pad"))
        return Batch(source, {"lm": labels}, rows.samples, tgt)

    def _corruption(self) -> "SpanCorruption":
        from uer.data.noise import SpanCorruption

        return SpanCorruption(self.special_id("sentinel"), self.sentinels, self.special_id("cls"),
                              self.special_id("sep"), self.special_id("pad"))
