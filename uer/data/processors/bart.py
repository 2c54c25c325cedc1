"""BART's pretraining data (Lewis et al., 2020): sentences are shuffled, spans infilled; the decoder writes the text."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from uer.config import MaskingConfig
from uer.data.draws import Draws
from uer.data.processors.base import Block
from uer.data.processors.gathered import FRAME, framed, gathered, short_sentences
from uer.data.processors.masked import MaskedProcessor
from uer.data.processors.pools import Pool, PoolBuilder
from uer.data.schema import SENTENCES, Column

if TYPE_CHECKING:
    from uer.data.batch import Batch, Rows


class BartProcessor(MaskedProcessor):
    """`--data_processor bart`: sentences of a document, together at most S - 2 tokens.

        stored   [CLS] a b | c d e | f [SEP]

        src      [CLS] f [MASK] d a b [SEP]      shuffled, masked as for mlm, neighbouring [MASK]s made one
        decoder  [CLS] a b c d e f               labels  a b c d e f [SEP]

    Both are drawn anew in every epoch, by the masking flags of `pretrain.py`.
    """

    corpus = SENTENCES
    labels = ("lm",)
    config_class = MaskingConfig
    always_dynamic = True

    def schema(self) -> dict[str, Column]:
        """`sentence_start` is 1 on the first token of a sentence, and on [CLS] and [SEP]."""
        return {**super().schema(), "sentence_start": Column(dtype="uint8")}

    def batch_lengths(self) -> dict[str, int]:
        """S, and S - 1: the decoder does not read [SEP]."""
        return {"src": self.seq_length, "tgt": self.seq_length - 1}

    def builder(self, draws: Draws, copies: int = 1) -> "SentenceBuilder":
        """Nothing is drawn here."""
        return SentenceBuilder(self.seq_length, self.special_id("cls"), self.special_id("sep"), draws, copies)

    def batch(self, rows: "Rows") -> "Batch":
        """Rows of up to S tokens -> src and seg (R, S), tgt (R, S - 1) and labels `lm` (R, S - 1) of the side "tgt"."""
        from uer.data.batch import Batch
        from uer.data.noise import infilled, shuffled_sentences
        from uer.data.sides import decoder_side

        lengths, pad = rows.lengths["src"], self.special_id("pad")
        tgt, labels = decoder_side(rows.columns["src"], lengths, pad)
        order = shuffled_sentences(rows.columns["sentence_start"], lengths, rows.keys)
        shuffled = {name: rows.columns[name].gather(1, order) for name in rows.columns.keys() & {"src", "word_start"}}
        src, seg, _ = self.masked(replace(rows, columns=shuffled))
        return Batch(infilled(src, seg, self.special_id("mask"), pad), {"lm": labels}, rows.samples, tgt)


class SentenceBuilder(PoolBuilder):
    """Gathers sentences of a document while they have fewer than S - 2 tokens together.

    Sentences of more than S - 2 tokens are left out.
    """

    def __init__(self, seq_length: int, cls_id: int, sep_id: int, draws: Draws, copies: int) -> None:
        super().__init__(draws, copies)
        self.room = seq_length - FRAME
        self.frame = (cls_id, sep_id)
        self._position = 0  # tokens made so far

    def work_on(self, pool: Pool, goes_on: bool) -> Block:
        begins, sizes, documents, short = short_sentences(pool, self.room)
        first, _ = gathered(documents, (np.concatenate([[0], np.cumsum(sizes)]), self.room))
        origin, starts = framed(begins, sizes, np.append(first, len(sizes)), len(pool.ids))
        starts += self._position
        self._position += len(origin)
        columns = {"src": np.append(pool.ids, np.array(self.frame, pool.ids.dtype))[origin]}
        if pool.word_start is not None:
            columns["word_start"] = np.append(pool.word_start, np.ones(2, np.uint8))[origin]
        begin = np.zeros(len(pool.ids) + 2, np.uint8)  # of the pool, [CLS] and [SEP]
        begin[begins] = begin[-2:] = 1
        reason = f"the sentence has more than --seq_length - {FRAME} = {self.room} tokens"
        return Block({**columns, "sentence_start": begin[origin]}, {"src": starts}, pool.left_out({reason: ~short}))
