"""Layer norms under UER's parameter names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis (Ba et al., 2016), with BERT's epsilon.

    UER-py divides by (unbiased standard deviation + 1e-6) instead; its checkpoints load and differ by under 0.005 in
    loss. The standard form is what `transformers` computes, so an exported model gives the same logits.
    """

    def __init__(self, size: int, eps: float = 1e-12, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.empty(size))
        self.beta = nn.Parameter(torch.empty(size)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.gamma)
        if self.beta is not None:
            nn.init.zeros_(self.beta)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., size) -> (..., size)"""
        beta = None if self.beta is None else _as_wide(self.beta, hidden)
        return F.layer_norm(hidden, self.gamma.shape, _as_wide(self.gamma, hidden), beta, self.eps)


class T5LayerNorm(nn.Module):
    """Division by the root mean square: no mean, no bias (Zhang and Sennrich, 2019, RMSNorm; Raffel et al., 2020)."""

    def __init__(self, size: int, eps: float = 1e-6, bias: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., size) -> (..., size)"""
        weight = _as_wide(self.weight, hidden)
        # torch's fused kernel takes one type only, and autocast's bfloat16 heads meet float32 weights.
        return F.rms_norm(hidden.to(weight.dtype), weight.shape, weight, self.eps).to(hidden.dtype)


def _as_wide(weight: Tensor, hidden: Tensor) -> Tensor:
    """A weight that is narrower than the hidden states (bfloat16 beside float32) in their type: a norm's arithmetic is
    never narrower than its input."""
    return weight.to(torch.promote_types(weight.dtype, hidden.dtype))


# TencentPretrain's name for LLaMA's norm is "rms"; it computes what T5's does, and its parameter has the same name.
NORMS = {"normal": LayerNorm, "t5": T5LayerNorm, "rms": T5LayerNorm}


def build_norm(kind: str, size: int, eps: float | None = None, bias: bool = True) -> nn.Module:
    """A norm of this kind over `size` features.

    Args:
        kind: a key of `NORMS`.
        size: features.
        eps: what is added to the variance; the kind's own where None.
        bias: whether a layer norm has a bias; the norm by the root mean square never has one.
    """
    return NORMS[kind](size, bias=bias) if eps is None else NORMS[kind](size, eps, bias)
