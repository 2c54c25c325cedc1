"""Local attention in blocks: what lies outside of a window is not computed.

A row is cut into blocks as long as one side of the window. The queries of a block see keys of their own block and of
the blocks beside it only, so that this is attention of many short rows, with a mask for the window's edges. For a side
of 2 and a row of 5 tokens (x: may attend):

    queries     0 1   keys  . . 0 1 2 3      0: . . x x x .     2: x x x x x .  (keys 0 1 2 3 4 .)
                2 3         0 1 2 3 4 .      1: . . x x x x     3: . x x x x .
                4 .         2 3 4 . . .
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def in_blocks(values: Tensor, block: int) -> Tensor:
    """(rows, length, ...) -> (rows, blocks, block, ...), the last block filled up with zeros.

    >>> in_blocks(torch.tensor([[1, 2, 3]]), 2)
    tensor([[[1, 2],
             [3, 0]]])
    """
    missing = -values.shape[1] % block
    padded = F.pad(values, [0, 0] * (values.dim() - 2) + [0, missing]) if missing else values
    return padded.unflatten(1, (-1, block))


def with_neighbours(blocks: Tensor, causal: bool) -> Tensor:
    """(rows, blocks, block, ...) -> (rows, blocks, 3 * block, ...): the block before, the block itself and the block
    after. Before the first and after the last one there are zeros. With `causal` (rows, blocks, 2 * block, ...): no
    query may attend to the block after.

        [[1, 2], [3, 4]]  ->  [[0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 0, 0]];  causal: [[0, 0, 1, 2], [1, 2, 3, 4]]
    """
    zeros = torch.zeros_like(blocks[:, :1])
    before = torch.cat([zeros, blocks[:, :-1]], 1)
    after = () if causal else (torch.cat([blocks[:, 1:], zeros], 1),)
    return torch.cat([before, blocks, *after], 2)


def block_window(length: int, block: int, causal: bool, device: torch.device) -> Tensor:
    """(blocks, block, keys) bool: which keys of `with_neighbours` lie in the row and at most `block` positions from the
    query (with `causal`, not behind it). The table above shows `block_window(5, 2, False)`."""
    columns = torch.arange(-(-length // block) * block, device=device).view(-1, block)  # (blocks, block)
    keys = torch.arange((2 if causal else 3) * block, device=device) + columns[:, :1] - block  # (blocks, keys)
    distance = keys[:, None, :] - columns[:, :, None]
    within = (distance <= 0 if causal else distance <= block) & (distance >= -block)
    return within & ((keys >= 0) & (keys < length))[:, None, :]
