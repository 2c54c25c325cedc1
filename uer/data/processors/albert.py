"""ALBERT's pretraining data (Lan et al., 2020): two consecutive parts of a text, masked and possibly swapped."""

from typing import TYPE_CHECKING

import numpy as np

from uer.data.draws import Draws, below, drawn
from uer.data.processors.bert import pair_batch
from uer.data.processors.masked import MaskedProcessor
from uer.data.processors.pairs import COIN, FRAME, PairBuilder, PairConfig, Pairs, split_dtype
from uer.data.processors.pools import Pool
from uer.data.schema import INSTANCE, SENTENCES, Column

if TYPE_CHECKING:
    from torch import Tensor

    from uer.data.batch import Batch, Rows

ORDER = 1 << 20
"""The purpose of the hash that decides whether a row's parts are swapped; those of masks are smaller."""


class AlbertProcessor(MaskedProcessor):
    """`--data_processor albert`. The label of `sp` is 1 where the two parts are swapped, else 0.

    Which rows are swapped is decided when a batch is made. A chunk of one sentence is divided between two of its
    tokens; UER-py leaves one part empty, from which a model can read the label.
    """

    corpus = SENTENCES
    labels = ("mlm", "sp")
    config_class = PairConfig
    least_length = FRAME + 2  # a token of each part
    duplication = "build"

    def schema(self) -> dict[str, Column]:
        """`split` is the position where the second part begins."""
        return {**super().schema(), "split": Column(INSTANCE, split_dtype(self.seq_length))}

    def builder(self, draws: Draws, copies: int = 1) -> PairBuilder:
        """A builder that divides each chunk at random."""
        return SentenceOrderBuilder(self.seq_length, self.special_id("cls"), self.special_id("sep"),
                                    self.config.short_seq_prob, draws, copies)

    def batch(self, rows: "Rows") -> "Batch":
        """Pairs -> src and seg (R, S), masked, and the labels `mlm` (R, P) and `sp` (R, 1) at position 0.

        A row whose text is a single token has nothing to swap: its order is not predicted.
        """
        from uer.data.batch import IGNORED
        from uer.data.hashing import hash_words

        length = rows.lengths["src"]
        swapped = hash_words(ORDER, rows.keys) >> 31  # (R,) a bit
        split = swap_parts(rows, swapped)
        label = swapped.masked_fill((split == 2) | (split == length - 1), IGNORED)
        return pair_batch(self, rows, split, label)


def swap_parts(rows: "Rows", swapped: "Tensor") -> "Tensor":
    """[CLS] a [SEP] b [SEP] -> [CLS] b [SEP] a [SEP], in place, in the rows where `swapped` (R,) is 1.

    The old position of each token of the new row, with a of 2 tokens, b of 3, split 4 and length 8:

        new    [CLS] b0 b1 b2 [SEP] a0 a1 [SEP]
        old    0     4  5  6  3     1  2  7

    Returns:
        the new `split` (R,): the position of the second part's first token, here 5.
    """
    import torch

    split, length = rows.columns["split"], rows.lengths["src"]
    second = (length - 1 - split)[:, None]  # (R, 1) tokens of b
    positions = torch.arange(rows.columns["src"].shape[1], device=split.device).expand(len(split), -1)
    middle = split[:, None] - 1  # the first [SEP]
    source = torch.where(positions <= second, positions + middle, positions - second - 1)  # (R, S)
    source = torch.where(positions == second + 1, middle, source)
    outside = (positions == 0) | (positions >= length[:, None] - 1) | (swapped[:, None] == 0)
    source = torch.where(outside, positions, source)
    for name in ("src", "word_start"):
        if name in rows.columns:
            rows.columns[name].copy_(rows.columns[name].gather(1, source))
    return torch.where(swapped == 1, second[:, 0] + 2, split)


class SentenceOrderBuilder(PairBuilder):
    """The second part is the rest of the chunk."""

    def pairs(self, pool: Pool, copy: int) -> tuple[Pairs, np.ndarray, dict[str, np.ndarray]]:
        chunks = self.gather(pool, copy, put_back=False)
        begin, end = pool.sentences[chunks.start], pool.sentences[chunks.end]
        inside = begin + 1 + below(drawn(chunks.keys, COIN), np.maximum(end - begin - 1, 1))
        middle = np.where(chunks.end - chunks.start == 1, np.minimum(inside, end), pool.sentences[chunks.middle])
        return Pairs(begin, middle, middle, end), chunks.keys, {}
