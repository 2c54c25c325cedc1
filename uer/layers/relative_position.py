"""T5's relative position bias (Raffel et al., 2020): one learned number for each head and bucket of distances."""

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
        """
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
