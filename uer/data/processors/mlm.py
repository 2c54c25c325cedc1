"""Masked language model: a document is a line, cut into instances of `seq_length` tokens.

No torch at the top: `preprocess.py` uses the first half of this file and has to start fast.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from uer.data.processors.base import Instances

if TYPE_CHECKING:
    from uer.config import MaskingConfig
    from uer.data.batch import Batch, InstanceRows
    from uer.data.store import DatasetInfo


class MlmInstanceBuilder:
    """Frames documents as [CLS] + ids + [SEP] and cuts them, block by block, in constant memory.

    With seq_length 4, the documents [7, 8, 9] and [5] become the instances [CLS 7 8 9] [SEP] [CLS 5 SEP].
    With `full_sentences` documents are joined: the caller cuts the whole stream, here `starts` stays empty.
    A document of no tokens is blank: it is counted and leaves nothing behind.

    Attributes:
        documents: finished documents so far, blank ones left out.
        blank_lines: blank ones.
    """

    def __init__(self, seq_length: int, special_ids: Mapping[str, int], full_sentences: bool = False):
        self.seq_length = seq_length
        self.cls_id = special_ids["cls"]
        self.sep_id = special_ids["sep"]
        self.full_sentences = full_sentences
        self.documents = 0
        self.blank_lines = 0
        self._position = 0  # tokens made so far
        self._open = 0  # tokens made so far of the document that the last block left unfinished

    def add(self, ids: np.ndarray, offsets: np.ndarray, word_start: np.ndarray | None = None,
            unfinished: bool = False) -> Instances:
        """Turn the next lines into instances.

        Args:
            ids: (ids,) token ids of the lines, one after another.
            offsets: (lines + 1,) where each line begins in `ids`.
            word_start: (ids,) 1 where a token begins a word; [CLS] and [SEP] are words of their own.
            unfinished: the next block begins with the rest of this one's last line.
        """
        lengths = np.diff(offsets)  # (lines,)
        opens = lengths > 0  # the line puts a [CLS] before its ids
        closes = lengths > 0  # and a [SEP] behind them
        if self._open:
            opens[0], closes[0] = False, True
        if unfinished:
            closes[-1] = False
        framed = lengths + opens + closes
        stops = np.cumsum(framed)
        begins = stops - framed
        is_id = np.ones(int(stops[-1]), bool)
        tokens = np.full(len(is_id), self.cls_id, ids.dtype)
        is_id[begins[opens]] = False
        is_id[stops[closes] - 1] = False
        tokens[stops[closes] - 1] = self.sep_id
        tokens[is_id] = ids
        columns = {}
        if word_start is not None:
            columns["word_start"] = np.ones(len(is_id), np.uint8)
            columns["word_start"][is_id] = word_start
        done = np.zeros(len(lengths), np.int64)  # tokens of the line that earlier blocks hold
        done[0] = self._open
        starts = self._cut(begins, framed, done)
        self._open = int(done[-1] + framed[-1]) if unfinished else 0
        self._position += len(tokens)
        self.documents += int(closes.sum())
        self.blank_lines += len(lengths) - int(closes.sum()) - unfinished
        return Instances(tokens, starts, columns)

    def _cut(self, begins: np.ndarray, framed: np.ndarray, done: np.ndarray) -> np.ndarray:
        """Where instances start: at every seq_length-th token of each document."""
        if self.full_sentences:
            return np.empty(0, np.int64)
        size = self.seq_length
        earlier = -(-done // size)  # instances of the line that earlier blocks began
        counts = -(-(done + framed) // size) - earlier
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._position + np.repeat(begins + earlier * size - done, counts) + nth * size


class MlmProcessor:
    """`--data_processor mlm`."""

    def instance_builder(self, seq_length: int, special_ids: Mapping[str, int],
                         full_sentences: bool = False) -> MlmInstanceBuilder:
        """A builder for one stretch of the corpus (a shard); shards are independent of one another."""
        return MlmInstanceBuilder(seq_length, special_ids, full_sentences)

    def batch(self, rows: "InstanceRows", info: "DatasetInfo", masking: "MaskingConfig") -> "Batch":
        """Pad and mask rows, in place; the targets are `mlm_positions` and `mlm_labels` (R, P): see `masking.py`."""
        from uer.data.batch import Batch  # torch: `preprocess.py` does without it
        from uer.data.masking import masker

        mask = masker(masking, info.seq_length, info.vocab_size, tuple(sorted(info.special_ids.items())),
                      rows.tokens.device)
        real = mask.positions < rows.lengths[:, None]
        src, seg, pad = rows.tokens, real.long(), info.special_ids["pad"]
        src.mul_(seg)
        if pad:
            src.add_((1 - seg) * pad)
        positions, labels = mask(src, real, rows.lengths, rows.keys, rows.columns.get("word_start"))
        return Batch(src, seg, {"mlm_positions": positions, "mlm_labels": labels}, rows.samples, rows.lengths)
