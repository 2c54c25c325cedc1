"""One vector for each row, from the hidden states of its tokens."""

from torch import Tensor

ONE_TOKEN = ("first", "last")
"""The kinds that are the hidden state of a single token."""


def pooled_position(real: Tensor, how: str) -> Tensor:
    """The position of the token whose hidden state is the row's vector.

    Args:
        real: (B, S) bool: no padding, which is at the end of each row.
        how: "first" or "last".

    Returns:
        (B, 1) int64; 0 in a row of nothing but padding.
    """
    last = (real.sum(1, keepdim=True) - 1).clamp(min=0)
    return last * 0 if how == "first" else last


def pool(hidden: Tensor, real: Tensor, how: str) -> Tensor:
    """The mean or the maximum of each row's real tokens; each counts once, whatever its segment.

        hidden [[1, 5, 9]], real [[1, 1, 0]]  ->  mean 3, max 5      (H = 1)

    Args:
        hidden: (B, S, H). What stands at padding has no effect unless it is not finite.
        real: (B, S) bool, at least one a row.
        how: "mean" or "max".

    Returns:
        (B, H)
    """
    if how == "mean":
        return (hidden * real[:, :, None]).sum(1) / real.sum(1, keepdim=True)
    assert how == "max"
    return hidden.masked_fill(~real[:, :, None], float("-inf")).amax(1)
