"""Rotary position embedding (Su et al., 2021, https://arxiv.org/abs/2104.09864)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """Turns pairs of a head's features by angles that grow with the position, so that a score depends on the distance.

    Feature i of the first half is paired with feature i of the second half, as LLaMA's checkpoints are stored:

        head_size 4, position p:  [a, b, c, d]  ->  [a cos p - c sin p, b cos q - d sin q,
                                                     c cos p + a sin p, d cos q + b sin q],  q = p * base^(-1/2)

    Attributes:
        base: pair i of head_size / 2 turns by position * base^(-2 i / head_size).
    """

    base: float = 10000.0

    def __call__(self, vectors: Tensor, positions: Tensor, head_size: int) -> Tensor:
        """
        Args:
            vectors: (N, heads * head_size) queries or keys; head_size must be even.
            positions: (N,).
            head_size: features of a head.

        Returns:
            (N, heads * head_size)
        """
        pairs = torch.arange(0, head_size, 2, device=vectors.device).float() / head_size
        angles = positions.float()[:, None, None] * self.base**-pairs  # (N, 1, head_size / 2)
        cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
        first, second = vectors.view(len(vectors), -1, head_size).chunk(2, dim=-1)  # (N, heads, head_size / 2) each
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(1)
