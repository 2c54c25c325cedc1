"""Linear and embedding modules that start as BERT's do: weights N(0, 0.02), biases 0."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.layers.cpu.linear import cpu_linear, takes

INITIAL_STD = 0.02


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x (..., I), weight (O, I), bias (O,) or None -> (..., O)."""
    return cpu_linear(x, weight, bias) if takes(x, weight) else F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`torch.nn.Linear` with BERT's initialisation."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) -> (..., O)"""
        return linear(input, self.weight, self.bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0.0, INITIAL_STD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ScoreLinear(Linear):
    """The last layer of a task's head. Its scores are float32, under autocast too.

    The 8 bits of bfloat16 give neighbouring scores the same value: 2.501 and 2.505 are both 2.5. Then rows tie in a
    ranking, and of two equal logits the first wins.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) -> (..., O), float32 under autocast"""
        device = input.device.type
        if not torch.is_autocast_enabled(device):
            return super().forward(input)
        with torch.autocast(device, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.linear(input.float(), self.weight.float(), bias)


class Embedding(nn.Embedding):
    """`torch.nn.Embedding` with BERT's initialisation; no row is special, the padding entry's included."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0.0, INITIAL_STD)


def weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The parameters of a linear layer that is not called, because its product is computed in blocks.

    A parametrised layer (`torch.nn.utils.parametrize`) gives the weight that it computes.

    Raises:
        TypeError: the layer is wrapped or has hooks, so its weight alone does not say what it computes.
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    if not isinstance(layer, nn.Linear) or "forward" in vars(layer) or any(hooks):
        raise TypeError(f"{type(layer).__name__}: an output layer over the vocabulary must be a plain linear layer; "
                        "a wrapper would be ignored. Use torch.nn.utils.parametrize, or wrap other layers")
    return layer.weight, layer.bias
