"""LoRA (Hu et al., 2021, https://arxiv.org/abs/2106.09685): a linear layer whose weight stays as it is, beside which
the product of two small matrices is trained.

    y = x W^T + b + (alpha / r) * (dropout(x) A^T) B^T        W (out, in), A (r, in), B (out, r)

A starts random and B at zero, so that an adapted model begins as the model that it adapts. `lora_A` and `lora_B` are
the names of TencentPretrain's checkpoints. Merged, the weight is W + (alpha / r) B A:

>>> state = {"query.weight": torch.zeros(2, 2), "query.lora_A": torch.tensor([[1.0, 2.0]]),
...          "query.lora_B": torch.tensor([[3.0], [0.0]])}
>>> merged(state, alpha=2.0)
{'query.weight': tensor([[ 6., 12.],
        [ 0.,  0.]])}
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from uer.layers.dropout import Dropout
from uer.layers.linear import Linear, linear

A, B = ".lora_A", ".lora_B"
"""How the names of an adapter's parameters end."""


class LoraLinear(Linear):
    """A linear layer with an adapter; weight and bias are the plain layer's own parameters, under their names."""

    def __init__(self, plain: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        """
        Args:
            plain: the layer that is adapted.
            rank: r; of A and B together, (in + out) * r numbers are trained.
            alpha: the product is multiplied by alpha / r.
            dropout: probability of dropping an element of the adapter's input.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self.lora_A = nn.Parameter(plain.weight.new_empty(rank, plain.in_features))
        self.lora_B = nn.Parameter(plain.weight.new_empty(plain.out_features, rank))
        self.dropout, self.scale = Dropout(dropout), alpha / rank
        self.reset_adapter()
        self.train(plain.training)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.reset_adapter()

    def reset_adapter(self) -> None:
        """Draw A as torch draws a linear layer's weight, uniform in +-1/sqrt(in); B is zero."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        return linear(hidden, self.weight, self.bias) + linear(self.narrowed(hidden), self.lora_B)

    def narrowed(self, hidden: Tensor) -> Tensor:
        """(..., in) -> (..., r): the scaled input of B."""
        return linear(self.dropout(hidden), self.lora_A) * self.scale


def add_adapters(model: nn.Module, parts: Sequence[str], targets: Sequence[str], rank: int, alpha: float,
                 dropout: float) -> dict[str, list[str]]:
    """Replace linear layers of a model by adapted ones, in place.

    A layer that is used under several names stays one layer.

    Args:
        parts: children of the model whose layers may be adapted, such as "encoder".
        targets: see `is_named`; "all-linear" names all of them.
        rank, alpha, dropout: see `LoraLinear`.

    Returns:
        For each target the names of the layers that it named.
    """
    layers = {name: module for name, module in model.named_modules(remove_duplicate=False)
              if isinstance(module, nn.Linear) and name.split(".")[0] in parts}
    found = {target: [name for name in layers if target == "all-linear" or is_named(name, target)]
             for target in targets}
    adapted: dict[nn.Module, LoraLinear] = {}
    for name in dict.fromkeys(name for names in found.values() for name in names):
        if layers[name] not in adapted:
            adapted[layers[name]] = LoraLinear(layers[name], rank, alpha, dropout)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, adapted[layers[name]])
    return found


def adapters_side_by_side(layers: Sequence[nn.Linear], hidden: Tensor) -> Tensor:
    """What the adapters of several layers of one input add to their outputs, side by side.

    It is one product with a matrix of blocks. With query and value adapted, of rank 1 and one output each:

        hidden -> (low_q, low_v)        [[b_q, 0], [0, 0], [0, b_v]]^T  ->  (low_q b_q, 0, low_v b_v)

    Args:
        layers: one of them at least has an adapter.
        hidden: (N, in)

    Returns:
        (N, sum of out)
    """
    adapted = [layer for layer in layers if isinstance(layer, LoraLinear)]
    blocks = [layer.lora_B if isinstance(layer, LoraLinear) else layer.weight.new_empty(layer.out_features, 0)
              for layer in layers]
    low = torch.cat([layer.narrowed(hidden) for layer in adapted], dim=-1)  # (N, sum of r)
    return linear(low, torch.block_diag(*blocks))


def is_named(name: str, part: str) -> bool:
    """Whether `part` is a part of a dotted name, in whole words.

    >>> is_named("encoder.transformer.0.self_attn.linear_layers.0", "linear_layers.0")
    True
    >>> is_named("encoder.transformer.0.self_attn.linear_layers.0", "linear")
    False
    """
    return f".{part}." in f".{name}."


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is that of an A or a B."""
    return name.endswith((A, B))


def adapted_layers(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers whose adapters are in `state`."""
    return [name.removesuffix(A) for name in state if name.endswith(A)]


def merged(state: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A model's weights with the adapters added to the weights of their layers, as a model without adapters has them.

    Args:
        state: the weights of a model, and the adapters of some of its layers; r may differ between layers.
        alpha: see `LoraLinear`.
    """
    found = {name: tensor for name, tensor in state.items() if not is_adapter(name)}
    with torch.no_grad():
        for layer in adapted_layers(state):
            low, high = state[layer + A], state[layer + B]  # (r, in), (out, r)
            found[f"{layer}.weight"] = state[f"{layer}.weight"] + (alpha / len(low)) * (high @ low)
    return found
