"""What a position may attend to: the `--mask` rules, as numbers that are added to attention scores."""

import torch
from torch import Tensor

from uer.layers.layout import Layout

# Added to the score of a key that must not be seen. As BERT's: its weight underflows to 0 in every precision, and a row
# of nothing but padding still has finite numbers.
HIDDEN = -10000.0


def add_masks(layout: Layout, rule: str, dtype: torch.dtype) -> None:
    """Put a mask in `layout` for each group that needs one; none is needed where every key may be seen.

    Args:
        layout: changed in place.
        rule: fully_visible (every real key), causal (keys up to the query's own place) or causal_with_prefix (causal,
            but the keys of segment 1 are seen by all). Where rows have several documents, only keys of the query's own
            one are seen at all.
        dtype: of the attention scores.
    """
    unpadded = layout.index is not None
    if unpadded and rule == "fully_visible" and layout.starts is None:
        return
    seg = layout.gather(layout.seg)
    starts = None if layout.starts is None else layout.gather(layout.starts)
    for number, (start, rows, length) in enumerate(layout.groups):
        group_seg = seg[start:start + rows * length].view(rows, length)
        visible = _visible(group_seg, rule)
        if starts is not None:
            document = starts[start:start + rows * length].view(rows, length)
            visible = visible & (document[:, None, :, None] == document[:, None, None, :])
        layout.masks[number] = torch.zeros(visible.shape, dtype=dtype, device=seg.device).masked_fill(~visible, HIDDEN)


def _visible(seg: Tensor, rule: str) -> Tensor:
    """(rows, S) -> bool, broadcastable to (rows, heads, S queries, S keys)"""
    if rule == "fully_visible":
        return (seg > 0)[:, None, None, :]
    length = seg.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=seg.device).tril()[None, None]
    if rule == "causal":
        return causal
    return (seg == 1)[:, None, None, :] | (causal & (seg > 0)[:, None, None, :])
