"""Pegasus' pretraining data (Zhang et al., 2020): sentences of a document are hidden, and the decoder writes them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from uer.config import flag
from uer.data.draws import Draws, drawn
from uer.data.processors.base import Block, Processor, TgtConfig
from uer.data.processors.gathered import FRAME, Sentences, framed, gathered, short_sentences
from uer.data.processors.pools import Pool, PoolBuilder, concatenated
from uer.data.schema import SENTENCES, Column

if TYPE_CHECKING:
    from uer.data.batch import Batch, Rows

FRACTION_HIDDEN = 0.3  # of a document's sentences


@dataclass(frozen=True)
class GsgConfig(TgtConfig):
    """Gap sentences (--data_processor gsg)"""

    sentence_selection_strategy: str = flag("lead", "Which sentences gsg predicts: the first ones of a document, or "
                                                    "random ones.", choices=("lead", "random"))


class GsgProcessor(Processor):
    """`--data_processor gsg`: each hidden sentence is one [MASK] in the source and stands in the target.

        document  a b | c | d e f | g      hidden  0 and 2

        src  [CLS] [MASK] c [MASK] g [SEP]      decoder  [CLS] a b d e f      labels  a b d e f [SEP]

    An instance has fewer than S and T (--tgt_seq_length) tokens; what does not fit begins the next one. Instances
    without a hidden sentence are left out.
    """

    corpus = SENTENCES
    labels = ("lm",)
    config_class = GsgConfig
    config: GsgConfig

    @property
    def duplication(self) -> str:
        """Copies differ only where sentences are drawn."""
        return "build" if self.config.sentence_selection_strategy == "random" else "none"

    def schema(self) -> dict[str, Column]:
        """Both sequences, [CLS] and [SEP] included."""
        return {"src": Column(), "tgt": Column("tgt")}

    def lengths(self) -> dict[str, int]:
        """S - 1 and T - 1: as in UER-py no instance is full."""
        return {"src": self.seq_length - 1, "tgt": self.config.tgt_seq_length - 1}

    def batch_lengths(self) -> dict[str, int]:
        """S - 1, and T - 2: the decoder does not read [SEP]."""
        return {"src": self.seq_length - 1, "tgt": self.config.tgt_seq_length - 2}

    def builder(self, draws: Draws, copies: int = 1) -> "GapSentenceBuilder":
        """Sentences are drawn here."""
        marks = (self.special_id("mask"), self.special_id("cls"), self.special_id("sep"))
        return GapSentenceBuilder(self.seq_length, self.config, marks, draws, copies)

    def batch(self, rows: "Rows") -> "Batch":
        """Rows -> src and seg (R, S - 1), tgt (R, T - 2) and labels `lm` (R, T - 2) of the side "tgt"."""
        from uer.data.batch import Batch  # imports torch, which `preprocess.py` avoids
        from uer.data.sides import decoder_side, padded

        pad = self.special_id("pad")
        tgt, labels = decoder_side(rows.columns["tgt"], rows.lengths["tgt"], pad)
        return Batch(padded(rows, "src", self.seq_length - 1, pad), {"lm": labels}, rows.samples, tgt)


class GapSentenceBuilder(PoolBuilder):
    """Hides sentences and gathers the document into instances; sentences that leave no room are left out.

    Args:
        seq_length: S.
        config: T, and which sentences are hidden.
        marks: the ids of [MASK], [CLS] and [SEP].
        draws, copies: of `PoolBuilder`.
    """

    def __init__(self, seq_length: int, config: GsgConfig, marks: tuple[int, int, int], draws: Draws,
                 copies: int) -> None:
        super().__init__(draws, copies)
        self.room = {"src": seq_length - FRAME, "tgt": config.tgt_seq_length - FRAME}
        self.random = config.sentence_selection_strategy == "random"
        self.marks = marks
        self._position = {"src": 0, "tgt": 0}  # tokens made so far

    def work_on(self, pool: Pool, goes_on: bool) -> Block:
        longest = min(self.room.values()) - 1
        sentences = short_sentences(pool, longest)
        blocks, used = zip(*(self._block(pool, sentences, copy) for copy in range(self.copies)))
        alone = sentences.short.copy()  # (sentences of the pool,): in an instance of no copy
        alone[sentences.short] = ~np.logical_or.reduce(used)
        axis = min(self.room, key=self.room.get)
        flag_name = "--seq_length" if axis == "src" else "--tgt_seq_length"
        return replace(concatenated(list(blocks)), left_out=pool.left_out({
            f"the sentence has more than {flag_name} - {FRAME + 1} = {longest} tokens": ~sentences.short,
            "its part of the document has no sentence to predict": alone}))

    def hidden(self, pool: Pool, documents: np.ndarray, copy: int) -> np.ndarray:
        """Which of the sentences are hidden: (N,) bool. Of n sentences round(0.3 n), the first ones, or a random choice
        of all but the last.

        Args:
            documents: (D + 1,), of `Sentences`.
        """
        counts = np.diff(documents)
        document = np.repeat(np.arange(len(counts)), counts)  # (N,) of each sentence
        rank = number = np.arange(len(document)) - documents[document]
        if self.random:
            keys = self.draws.documents(pool.first + np.arange(len(counts)), copy)
            hashes = drawn(keys[document], number)
            hashes[documents[1:][counts > 0] - 1] = 1 << 32  # the last ones
            order = np.lexsort((hashes, document))
            rank = np.empty_like(number)
            rank[order] = number  # documents stay in their order, so theirs are the ranks 0, 1, ... of each
        return rank < np.rint(FRACTION_HIDDEN * counts)[document]

    def _block(self, pool: Pool, sentences: Sentences, copy: int) -> tuple[Block, np.ndarray]:
        """The instances of a copy, and which sentences are in one: (N,) bool."""
        begins, sizes, documents, _ = sentences
        hidden = self.hidden(pool, documents, copy)
        source = np.where(hidden, 1, sizes)  # (N,) tokens of each sentence in src; in tgt it has sizes * hidden
        sums = {"src": np.cumsum(np.append(0, source)), "tgt": np.cumsum(np.append(0, sizes * hidden))}
        first, end = gathered(documents, *((sums[axis], self.room[axis]) for axis in sums))
        filled = np.diff(np.append(0, np.cumsum(hidden))[np.append(first, len(hidden))]) > 0  # (C,): hides a sentence
        kept = np.repeat(filled, end - first)  # (N,)
        mask = len(pool.ids)  # behind the pool stand [MASK], [CLS] and [SEP]
        ids = np.append(pool.ids, np.array(self.marks, pool.ids.dtype))
        rows = _rows(np.repeat(np.arange(len(first)), end - first), kept)
        made = {"src": framed(np.where(hidden, mask, begins)[kept], source[kept], rows, mask + 1)}
        gaps = kept & hidden
        rows = _rows(np.repeat(np.arange(len(first)), end - first), gaps)
        made["tgt"] = framed(begins[gaps], sizes[gaps], rows, mask + 1)
        block = Block({axis: ids[origin] for axis, (origin, _) in made.items()},
                      {axis: starts + self._position[axis] for axis, (_, starts) in made.items()})
        self._position = {axis: self._position[axis] + len(origin) for axis, (origin, _) in made.items()}
        return block, kept


def _rows(chunk: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Where the chunks begin among the sentences that are kept, and the end.

    >>> _rows(np.array([0, 0, 1, 2, 2]), np.array([True, True, False, False, True])).tolist()
    [0, 2, 3]

    Args:
        chunk: (N,) ascending, of each sentence.
        kept: (N,) bool.
    """
    chunk = chunk[kept]
    return np.append(np.flatnonzero(np.diff(chunk, prepend=-1)), len(chunk))
