"""How close the results of bfloat16 products must be to exact ones."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F


def relative_error(ours: Tensor, exact: Tensor) -> float:
    """The length of the difference, divided by the length of what is exact."""
    ours, exact = ours.detach().double(), exact.detach().double()
    return float((ours - exact).norm() / exact.norm())


def assert_close_in_bf16(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> None:
    """Each pair has one direction (cosine above 0.999) and one length to 1%."""
    for our, their in zip(ours, theirs, strict=True):
        our, their = our.double().flatten(), their.double().flatten()
        assert F.cosine_similarity(our, their, dim=0) > 0.999
        torch.testing.assert_close(our.norm(), their.norm(), rtol=1e-2, atol=0)
