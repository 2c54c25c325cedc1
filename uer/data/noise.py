"""Noise for encoder-decoders, drawn when a batch is made: T5's span corruption, BART's shuffling and infilling.

Everything is integer arithmetic on tensors of fixed shapes, a function of the rows and their keys: all devices give the
same bits, and the host never waits for a GPU.

    span corruption of [CLS] a b c d e f [SEP] with b, c and f hidden, the sentinels being <0>, <1>, ...

    src     [CLS] a <0> d e <1> [SEP]           a run of hidden tokens becomes one sentinel
    target  [CLS] <0> b c <1> f <2> [SEP]       each run behind its sentinel, and a sentinel that closes the last
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from uer.data.batch import Side
from uer.data.masking import draw

SENTENCES = 5
"""The purpose of the hashes that order sentences; the purposes in `uer.data.masking` are smaller."""


@dataclass(frozen=True)
class SpanCorruption:
    """T5's span corruption (Raffel et al., 2020) of rows of S tokens, at most P of them hidden.

    A row has at most `sentinels` - 1 runs; tokens of further runs stay where they are.
    """

    first: int
    """The id of the first sentinel; the others have the next ids."""
    sentinels: int
    """How many there are, at least 2."""
    cls_id: int
    sep_id: int
    pad_id: int

    def width(self, predictions: int) -> int:
        """The longest target of P = `predictions` hidden tokens: [CLS], at most P runs, [SEP].

        >>> SpanCorruption(50, 100, 2, 3, 0).width(19), SpanCorruption(50, 3, 2, 3, 0).width(19)
        (41, 24)
        """
        return predictions + min(predictions, self.sentinels - 1) + 3

    def __call__(self, tokens: Tensor, real: Tensor, positions: Tensor) -> tuple[Side, Tensor, Tensor]:
        """Hide tokens.

        With S = 8 and the positions 6, 2, 3 of [CLS] a b c d e f [SEP]; P = 4:

            positions 2 3 6 S      sorted
            begins    1 0 1 0      the first position of a run
            runs      0 0 1 1      the number of its run
            target    [CLS] <0> b c <1> f <2> [SEP]: b, c, f at 0 + 0 + 2, 1 + 0 + 2, 2 + 1 + 2; each <r> before its run

        Args:
            tokens: (R, S) int64.
            real: (R, S) bool, false on padding.
            positions: (R, P) int64, those to hide in any order, filled up with S.

        Returns:
            src (R, S); the targets (R, width(P)), [PAD] behind their end; and their lengths (R,).
        """
        rows, size = tokens.shape
        positions = ascending(positions)
        hidden = positions < size  # (R, P), like everything up to `order`
        begins = hidden.clone()
        begins[:, 1:] &= positions[:, 1:] != positions[:, :-1] + 1
        runs = begins.cumsum(1) - 1
        hidden &= runs < self.sentinels - 1
        begins &= hidden
        positions = torch.where(hidden, positions, size)
        order = torch.arange(positions.shape[1], device=positions.device) + runs
        width = self.width(positions.shape[1])
        # Hidden tokens and sentinels; what is neither goes to the extra column `width`, which is cut off.
        target = torch.full((rows, width + 1), self.pad_id, device=tokens.device)
        target[:, 0] = self.cls_id
        target.scatter_(1, torch.where(hidden, order + 2, width), tokens.gather(1, positions.clamp(max=size - 1)))
        target.scatter_(1, torch.where(begins, order + 1, width), runs + self.first)
        count = begins.sum(1, keepdim=True)  # (R, 1) runs
        end = hidden.sum(1, keepdim=True) + count + 1
        target.scatter_(1, end, count + self.first)
        target.scatter_(1, end + 1, self.sep_id)
        src = self._source(tokens, real, positions, torch.where(begins, runs + self.first, -1))
        return src, target[:, :-1], end[:, 0] + 2

    def _source(self, tokens: Tensor, real: Tensor, positions: Tensor, marks: Tensor) -> Side:
        """The rows with the marks (R, P), sentinels and -1 for tokens that vanish, at `positions` (R, P) or S."""
        rows, size = tokens.shape
        marked = torch.full((rows, size + 1), -2, device=tokens.device).scatter_(1, positions, marks)[:, :-1]
        return compacted(torch.where(marked >= 0, marked, tokens), real & (marked != -1), self.pad_id)


def compacted(values: Tensor, keep: Tensor, pad_id: int) -> Side:
    """The rows without the values that are not kept.

        values  7 8 9 4      keep  1 0 1 0      ->  values  7 9 0 0      seg  1 1 0 0      (pad_id 0)

    Args:
        values: (R, S) int64.
        keep: (R, S) bool.
    """
    size = values.shape[1]
    positions = torch.arange(size, device=values.device)
    kept = keep.cumsum(1)  # (R, S): how many are kept up to here
    # What is kept goes to the front in its order, the others as padding to the end: all positions are written once.
    to = torch.where(keep, kept - 1, kept + (size - 1 - positions))
    moved = torch.empty_like(values).scatter_(1, to, torch.where(keep, values, pad_id))
    return Side(moved, (positions < kept[:, -1:]).long())


def infilled(src: Tensor, seg: Tensor, mask_id: int, pad_id: int) -> Side:
    """Rows (R, S) in which neighbouring [MASK]s become one (Lewis et al., 2020).

        [CLS] a [MASK] [MASK] b [MASK] [SEP]  ->  [CLS] a [MASK] b [MASK] [SEP] [PAD]
    """
    masked = src == mask_id
    keep = seg > 0
    keep[:, 1:] &= ~(masked[:, 1:] & masked[:, :-1])
    return compacted(src, keep, pad_id)


def shuffled_sentences(starts: Tensor, lengths: Tensor, keys: Tensor) -> Tensor:
    """A random order of each row's sentences: for each position of the new row, the old one.

        row     [CLS] a b | c | d e f [SEP] [PAD]      starts  1 1 0 1 1 0 0 1 0
        order   0 3 4 5 6 1 2 7 8                      [CLS] c d e f a b [SEP] [PAD]

    Args:
        starts: (R, S), 1 on the first token of a sentence.
        lengths: (R,) int64 tokens, [CLS] and [SEP] among them, which keep their positions.
        keys: (R,) int64 below 2^32.

    Returns:
        (R, S) int64.
    """
    size = starts.shape[1]
    positions, bits = torch.arange(size, device=starts.device), size.bit_length()
    hashes = draw(SENTENCES, keys[:, None], starts.cumsum(1))  # equal for the tokens of a sentence
    hashes.masked_fill_(positions >= lengths[:, None] - 1, 1 << 32)  # [SEP] and what stands behind it
    hashes[:, 0] = 0
    # A hash and, in the lowest bits, the position: sorting leaves the tokens of a sentence in their order.
    return ascending(hashes.bitwise_left_shift_(bits).bitwise_or_(positions)).bitwise_and_((1 << bits) - 1)


def ascending(values: Tensor) -> Tensor:
    """(R, N) int64, each row sorted. Numpy and torch give the same numbers; numpy is several times faster."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values
    return torch.from_numpy(np.sort(values.numpy(), axis=1))
