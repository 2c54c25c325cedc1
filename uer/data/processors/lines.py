"""Documents of one line each, framed and cut into instances of equal length."""

from dataclasses import dataclass

import numpy as np

from uer.config import flag
from uer.data.processors.base import Block, Builder, Lines


@dataclass(frozen=True)
class LineConfig:
    """Lines as documents (--data_processor mlm, lm and t5)"""

    full_sentences: bool = flag(False, "Concatenate the documents before they are cut into rows (RoBERTa).")


class LineBuilder(Builder):
    """Frames documents as [CLS] + ids + [SEP] and cuts them, block by block, in constant memory.

    With size 4, the documents [7, 8, 9] and [5] become the instances [CLS 7 8 9] [SEP] [CLS 5 SEP].
    With `joined` the caller cuts the whole stream, and here `starts` stays empty.
    A document of no tokens is blank: it is counted and leaves nothing behind.

    Args:
        size: tokens of a full instance.
        begin_id, end_id: what stands before and behind each document; None puts nothing there.
        joined: see above.
    """

    def __init__(self, size: int, begin_id: int | None, end_id: int | None, joined: bool = False):
        self.size = size
        self.begin_id, self.end_id = begin_id, end_id
        self.joined = joined
        self._position = 0  # tokens made so far
        self._open = 0  # tokens made so far of the document that the last block left unfinished

    def add(self, lines: Lines) -> Block:
        """Turn the next lines into instances; the marks around documents are words of their own."""
        source, unfinished = lines.tokens, lines.unfinished
        lengths = source.lengths  # (lines,)
        opens = lengths > 0  # the line begins a document
        closes = lengths > 0  # and ends it
        if self._open:
            opens[0], closes[0] = False, True
        if unfinished:
            closes[-1] = False
        marked_begins = opens & (self.begin_id is not None)
        marked_ends = closes & (self.end_id is not None)
        framed = lengths + marked_begins + marked_ends  # (lines,) tokens of each line, marks included
        stops = np.cumsum(framed)
        begins = stops - framed
        is_id = np.ones(int(stops[-1]), bool)  # (tokens,) false on the marks
        is_id[begins[marked_begins]] = False
        is_id[stops[marked_ends] - 1] = False
        tokens = np.full(len(is_id), self.begin_id or 0, source.ids.dtype)
        tokens[stops[marked_ends] - 1] = self.end_id or 0
        tokens[is_id] = source.ids
        columns = {"src": tokens}
        if source.word_start is not None:
            columns["word_start"] = np.ones(len(is_id), np.uint8)
            columns["word_start"][is_id] = source.word_start
        done = np.zeros(len(lengths), np.int64)  # tokens of the line that earlier blocks hold
        done[0] = self._open
        starts = self._cut(begins, framed, done)
        self._open = int(done[-1] + framed[-1]) if unfinished else 0
        self._position += len(tokens)
        self.documents += int(closes.sum())
        self.blank_lines += len(lengths) - int(closes.sum()) - unfinished
        return Block(columns, {"src": starts})

    def _cut(self, begins: np.ndarray, framed: np.ndarray, done: np.ndarray) -> np.ndarray:
        """Where instances start: at every `size`-th token of each document.

        A document of 10 tokens, of which an earlier block holds 5, at size 4: instances start at its tokens 0, 4 and 8,
        of which the first two are made; `earlier` is 2, `counts` 1, and the new one lies 3 tokens into this block.

        Args:
            begins: (lines,) where each line begins in this block's tokens.
            framed: (lines,) its tokens in this block.
            done: (lines,) its tokens in earlier blocks.
        """
        if self.joined:
            return np.empty(0, np.int64)
        size = self.size
        earlier = -(-done // size)  # instances of the line that earlier blocks began
        counts = -(-(done + framed) // size) - earlier
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, ... in each line
        return self._position + np.repeat(begins + earlier * size - done, counts) + nth * size
