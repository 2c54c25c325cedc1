"""Activations of the feed-forward layers, by the names of UER-py's configuration files."""

import torch
from torch import Tensor
from torch.nn import functional as F


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x) with the exact normal distribution function (Hendrycks and Gimpel, 2016), as BERT."""
    return F.gelu(x)


def gelu_fast(x: Tensor) -> Tensor:
    """The tanh approximation of `gelu`, as GPT-2."""
    return F.gelu(x, approximate="tanh")


def linear(x: Tensor) -> Tensor:
    """The identity."""
    return x


ACTIVATIONS = {"gelu": gelu, "gelu_fast": gelu_fast, "relu": torch.relu, "silu": F.silu, "linear": linear}
