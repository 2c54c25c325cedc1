"""Biases of attention scores that depend on the distance of query and key: T5's and ALiBi's.

T5's (Raffel et al., 2020) has one learned number for each head and bucket of distances; ALiBi's (Press et al., 2022)
falls linearly with the distance, and nothing of it is learned.
"""

import math

import torch
from torch import Tensor, nn

from uer.layers.linear import Embedding

MAX_DISTANCE = 128


def relative_position_bucket(distance: Tensor, buckets: int, bidirectional: bool) -> Tensor:
    """Bucket numbers in [0, buckets) of `distance` = key position - query position.

    Near distances have a bucket each, far ones share logarithmically growing buckets up to 128, beyond which all share
    the last. With `bidirectional`, keys to the right of the query use the upper half of the buckets; without it they
    fall in bucket 0.

    >>> relative_position_bucket(torch.tensor([-200, -1, 0, 1, 200]), 32, bidirectional=True).tolist()
    [15, 1, 0, 17, 31]
    """
    offset = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(MAX_DISTANCE / exact)
    far = (exact + (growth * (buckets - exact)).long()).clamp(max=buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


class RelativePositionBias(nn.Module):
    """The bias that is added to attention scores; the layers of an encoder share one."""

    def __init__(self, heads: int, buckets: int, bidirectional: bool = True) -> None:
        super().__init__()
        self.buckets = buckets
        self.bidirectional = bidirectional
        self.relative_attention_bias = Embedding(buckets, heads)

    def forward(self, length: int, first: int = 0) -> Tensor:
        """The bias for all distances in a row.

        Args:
            length: S, positions of the longest row.
            first: the first position that is a query; those before are keys only.

        Returns:
            (1, heads, S - first, S): entry [0, h, i, j] is for the query at position first + i and the key at j.
        """
        positions = torch.arange(length, device=next(self.parameters()).device)
        distance = positions[None, :] - positions[first:, None]  # (S - first, S): key position - query position
        bucket = relative_position_bucket(distance, self.buckets, self.bidirectional)
        return self.relative_attention_bias(bucket).permute(2, 0, 1).unsqueeze(0)


class AlibiBias(nn.Module):
    """The bias of ALiBi: -slope * |key position - query position| with a slope for each head (arXiv:2108.12409).

    With 2^n heads, slope h of 1, 2, ... is 2^(-8 h / 2^n); any other number of heads has the slopes of the power of two
    below it, and then every other one of the power of two above it, as BLOOM:

        4 heads: 1/4, 1/16, 1/64, 1/256        3 heads: 1/16, 1/256, then 1/4
    """

    def __init__(self, heads: int, scale: float) -> None:
        """
        Args:
            heads: attention heads.
            scale: what attention multiplies its scores by, the bias included (`uer.layers.view.Heads`). ALiBi's is
                added to the scaled scores, so it is divided by this number before.
        """
        super().__init__()
        self.heads, self.scale = heads, scale
        self.register_buffer("slopes", torch.empty(heads), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.slopes.copy_(torch.tensor(alibi_slopes(self.heads)) / self.scale)

    def forward(self, length: int, first: int = 0) -> Tensor:
        """(1, heads, S - first, S) for rows of S = `length` positions, as `RelativePositionBias`."""
        positions = torch.arange(length, device=self.slopes.device)
        distance = (positions[None, :] - positions[first:, None]).abs()  # (S - first, S)
        return -self.slopes[None, :, None, None] * distance


def alibi_slopes(heads: int) -> list[float]:
    """How fast each head's bias falls with the distance.

    >>> alibi_slopes(4), alibi_slopes(3)
    ([0.25, 0.0625, 0.015625, 0.00390625], [0.0625, 0.00390625, 0.25])
    """
    power = 1 << (heads.bit_length() - 1)
    exact = [2.0 ** (-8 * number / power) for number in range(1, power + 1)]
    return exact + [2.0 ** (-4 * number / power) for number in range(1, 2 * (heads - power), 2)]
