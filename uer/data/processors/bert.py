"""BERT's pretraining data (Devlin et al., 2019): pairs of text, masked, and whether the second follows the first."""

from typing import TYPE_CHECKING

import numpy as np

from uer.data.draws import Draws, below, drawn
from uer.data.processors.base import Block
from uer.data.processors.masked import MaskedProcessor
from uer.data.processors.pairs import COIN, FRAME, HEADS, Chunks, PairBuilder, PairConfig, Pairs, split_dtype
from uer.data.processors.pools import Pool, pooled
from uer.data.schema import INSTANCE, SENTENCES, Column

if TYPE_CHECKING:
    from torch import Tensor

    from uer.data.batch import Batch, Rows

LENT_TOKENS = 1 << 16
"""How many tokens of a document are lent to a pool that has no other document to draw from."""
TRIES = 10
"""How often the other document is drawn anew if it is the chunk's own document."""
START, DOCUMENT = 4, 5  # the purposes of a chunk's random numbers: first sentence of the other document, the document


class BertProcessor(MaskedProcessor):
    """`--data_processor bert`. The label of `sp` is 1 where the second part is from another document, else 0."""

    corpus = SENTENCES
    labels = ("mlm", "sp")
    config_class = PairConfig
    least_length = FRAME + 2  # a token of each part
    least_documents = 2
    duplication = "build"

    def schema(self) -> dict[str, Column]:
        """`split` is the position where the second part begins."""
        return {**super().schema(), "split": Column(INSTANCE, split_dtype(self.seq_length)),
                "is_random": Column(INSTANCE, "uint8")}

    def builder(self, draws: Draws, copies: int = 1) -> PairBuilder:
        """Pairs are drawn here."""
        return NextSentenceBuilder(self.seq_length, self.special_id("cls"), self.special_id("sep"),
                                   self.config.short_seq_prob, draws, copies)

    def batch(self, rows: "Rows") -> "Batch":
        """Pairs -> src and seg (R, S), masked, and the labels `mlm` (R, P) and `sp` (R, 1) at position 0."""
        return pair_batch(self, rows, rows.columns["split"], rows.columns["is_random"])


def pair_batch(processor: MaskedProcessor, rows: "Rows", split: "Tensor", label: "Tensor") -> "Batch":
    """A batch of pairs with the labels `mlm` (R, P) and `sp` (R, 1).

    Args:
        split: (R,) int64, the position of the second part's first token.
        label: (R,) int64, the label of `sp`.
    """
    from uer.data.batch import Batch, Labels, Side  # imports torch, which `preprocess.py` avoids
    from uer.data.sides import in_two_parts

    src, seg, labels = processor.masked(rows)
    return Batch(Side(src, in_two_parts(seg, split)), {"mlm": labels, "sp": Labels(label[:, None], label[:, None] * 0)},
                 rows.samples)


class NextSentenceBuilder(PairBuilder):
    """The second part is the rest of the chunk, or begins at any sentence of another document of the pool.

    It is from another document if a coin shows heads, and always if the chunk is a single sentence. The rest of the
    chunk is not used then, so the next chunk begins with it.

    A pool of a single document draws from the one that ended before it, or, where it is the shard's first, from one
    outside of the shard.
    """

    _lent: Pool | None = None  # the document that it draws from

    def work_on(self, pool: Pool, goes_on: bool) -> Block:
        """The pairs of all copies of the pool."""
        block = super().work_on(pool if len(pool.documents) > 2 else self._with_lent(pool), goes_on)
        if ended := len(pool.documents) - 1 - goes_on:  # a document lends nothing to its own further pieces
            self._lent = _document(pool, ended - 1)
        return block

    def _with_lent(self, pool: Pool) -> Pool:
        """A document, with another one behind it if the corpus has any."""
        lent = self._lent = self._lent or self._borrowed()
        if lent is None:
            return pool
        words = None if pool.word_start is None else np.concatenate([pool.word_start, lent.word_start])
        sentences = np.append(pool.sentences, pool.sentences[-1] + lent.sentences[1:])
        return Pool(np.concatenate([pool.ids, lent.ids]), words, sentences,
                    np.append(pool.documents, len(sentences) - 1), pool.first,
                    np.append(pool.lines, lent.lines), lent=1)

    def _borrowed(self) -> Pool | None:
        """The first document of the lines outside of the shard; None where they hold none."""
        if self.outside is None:
            return None
        lines = self.outside()
        pool = pooled(lines.ids, lines.word_start, lines.lengths, np.arange(len(lines.lengths)), first=0)
        return _document(pool, 0) if len(pool.documents) > 1 else None

    def pairs(self, pool: Pool, copy: int) -> tuple[Pairs, np.ndarray, dict[str, np.ndarray]]:
        chunks = self.gather(pool, copy, put_back=True)
        token = pool.sentences
        first_begin, first_end = token[chunks.start], token[chunks.middle]
        random = (chunks.end - chunks.start == 1) | (drawn(chunks.keys, COIN) < HEADS)
        other_begin, other_end = self._others(pool, chunks, chunks.target - (first_end - first_begin))
        second_begin = np.where(random, token[other_begin], first_end)
        second_end = np.where(random, token[other_end], token[chunks.end])
        pairs = Pairs(first_begin, first_end, second_begin, second_end)
        return pairs, chunks.keys, {"is_random": random.astype(np.uint8)}

    def _others(self, pool: Pool, chunks: Chunks, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sentences of another document for each chunk: (C,) first and (C,) last + 1.

        They begin at a random sentence of a random document and end when they have `wanted` tokens (C,) or with the
        document; there is at least one.
        """
        other = chunks.document.copy()
        for number in range(TRIES):
            same = np.flatnonzero(other == chunks.document)
            other[same] = below(drawn(chunks.keys[same], DOCUMENT + number), len(pool.documents) - 1)
        first, stop = pool.documents[other], pool.documents[other + 1]
        begin = first + below(drawn(chunks.keys, START), stop - first)
        end = np.searchsorted(pool.sentences, pool.sentences[begin] + wanted)
        return begin, np.minimum(np.maximum(end, begin + 1), stop)


def _document(pool: Pool, number: int) -> Pool:
    """The first sentences, at least one, of one of the pool's documents, as a pool of its own."""
    begin, stop = pool.documents[number:number + 2].tolist()
    first = pool.sentences[begin]
    stop = min(stop, max(int(np.searchsorted(pool.sentences, first + LENT_TOKENS, side="right")) - 1, begin + 1))
    tokens = slice(int(first), int(pool.sentences[stop]))
    words = None if pool.word_start is None else pool.word_start[tokens].copy()
    return Pool(pool.ids[tokens].copy(), words, pool.sentences[begin:stop + 1] - first,
                np.array([0, stop - begin]), pool.first, pool.lines[begin:stop].copy())
