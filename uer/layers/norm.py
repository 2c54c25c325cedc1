"""Layer norms under UER's parameter names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis (Ba et al., 2016), with BERT's epsilon.

    UER-py divides by (unbiased standard deviation + 1e-6) instead; its checkpoints load and differ by under 0.005 in
    loss. The standard form is what `transformers` computes, so an exported model gives the same logits.
    """

    def __init__(self, size: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.empty(size))
        self.beta = nn.Parameter(torch.empty(size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.gamma)
        nn.init.zeros_(self.beta)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., size) -> (..., size)"""
        return F.layer_norm(hidden, self.gamma.shape, _as_wide(self.gamma, hidden), _as_wide(self.beta, hidden),
                            self.eps)


class T5LayerNorm(nn.Module):
    """Division by the root mean square: no mean, no bias (Raffel et al., 2020)."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., size) -> (..., size)"""
        return F.rms_norm(hidden, self.weight.shape, _as_wide(self.weight, hidden), self.eps)


def _as_wide(weight: Tensor, hidden: Tensor) -> Tensor:
    """A weight that is narrower than the hidden states (bfloat16 beside float32) in their type: a norm's arithmetic is
    never narrower than its input."""
    return weight.to(torch.promote_types(weight.dtype, hidden.dtype))


NORMS = {"normal": LayerNorm, "t5": T5LayerNorm}


def build_norm(kind: str, size: int, eps: float | None = None) -> nn.Module:
    """A norm of this kind over `size` features; `eps` is added to the variance, the kind's own where None."""
    return NORMS[kind](size) if eps is None else NORMS[kind](size, eps)
