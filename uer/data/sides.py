"""Sides and labels of a batch, from stored rows: padding, segment numbers, the tokens that follow."""

import torch
from torch import Tensor

from uer.data.batch import IGNORED, Labels, Rows, Side


def padded(rows: Rows, axis: str, width: int, pad_id: int) -> Side:
    """The first `width` positions of a stored sequence, with seg 1 on its tokens: values and seg (R, width)."""
    stored = rows.columns[axis]
    real = torch.arange(width, device=stored.device) < rows.lengths[axis][:, None]
    return Side(torch.where(real, stored[:, :width], pad_id), real.long())


def next_tokens(rows: Rows, axis: str, width: int) -> Tensor:
    """The token that follows each of the first `width` positions, (R, width) int64; IGNORED behind the last token.

        stored  [CLS] 7 8 [SEP]  ->  7 8 [SEP] -100      (width 4; `stored` has one column more)
    """
    stored = rows.columns[axis]
    positions = torch.arange(width, device=stored.device)
    return torch.where(positions < rows.lengths[axis][:, None] - 1, stored[:, 1:width + 1], IGNORED)


def in_two_parts(seg: Tensor, split: Tensor) -> Tensor:
    """Segment numbers of two parts: `seg`, from the position `split` on 2.

        seg [[1, 1, 1, 0]], split [2]  ->  [[1, 1, 2, 0]]

    Args:
        seg: (R, S) int64, 1 on tokens, 0 on padding.
        split: (R,) int64.
    """
    return seg + ((seg.cumsum(dim=1) > split[:, None]) & (seg > 0))  # the sum at a token is its position + 1


def decoder_side(sequence: Tensor, lengths: Tensor, pad_id: int) -> tuple[Side, Labels]:
    """The decoder's input and labels: each token predicts the next one, and the last one predicts nothing.

        sequence  [CLS] a b [SEP] -      inputs  [CLS] a b [PAD]      seg  1 1 1 0      labels  a b [SEP] -100

    Args:
        sequence: (R, T + 1) int64, anything behind the rows' ends.
        lengths: (R,) int64.

    Returns:
        inputs and seg (R, T), labels (R, T) of the side "tgt".
    """
    real = torch.arange(sequence.shape[1] - 1, device=sequence.device) < lengths[:, None] - 1
    return (Side(torch.where(real, sequence[:, :-1], pad_id), real.long()),
            Labels(torch.where(real, sequence[:, 1:], IGNORED), side="tgt"))
