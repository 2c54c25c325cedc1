"""Multi-head attention (Vaswani et al., 2017) on rows laid end to end."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.layers.linear import Linear
from uer.layers.lora import LoraLinear, adapters_side_by_side
from uer.layers.rotary import Rotary
from uer.layers.view import Heads, Scores, View


class Attention(nn.Module):
    """Self-attention of encoders and decoders, and attention of a decoder to its encoder: the `View` says which.

    `linear_layers` are query, key and value, as UER names them; where they are plain layers of one input they run as
    one matrix product.
    """

    def __init__(self, hidden_size: int, heads: int, *, head_size: int | None = None, kv_heads: int | None = None,
                 rotary: Rotary | None = None, dropout: float = 0.0, bias: bool = True, scale: bool = True,
                 residual: bool = False) -> None:
        """
        Args:
            hidden_size: H.
            heads: attention heads.
            head_size: width of a head; the projections are heads * head_size wide. H / heads when None.
            kv_heads: heads of keys and values, of which each serves heads / kv_heads query heads (Ainslie et al., 2023,
                grouped-query attention). As many as `heads` when None.
            rotary: turns queries and keys by their positions.
            dropout: probability of dropping an attention weight while training.
            bias: whether the linear layers have biases.
            scale: whether scores (the position bias included, as in UER-py) are divided by sqrt(head_size).
            residual: whether scores are handed on to the next layer (He et al., 2020, RealFormer).
        """
        super().__init__()
        assert head_size is not None or hidden_size % heads == 0
        head_size, kv_heads = head_size or hidden_size // heads, kv_heads or heads
        assert heads % kv_heads == 0 and (rotary is None or head_size % 2 == 0)
        self.heads = Heads(heads, kv_heads, head_size, 1.0 / math.sqrt(head_size) if scale else 1.0)
        self.rotary, self.dropout, self.residual = rotary, dropout, residual
        widths = (heads * head_size, kv_heads * head_size, kv_heads * head_size)
        self.linear_layers = nn.ModuleList(Linear(hidden_size, width, bias) for width in widths)
        self.final_linear = Linear(heads * head_size, hidden_size, bias)

    def forward(self, query: Tensor, memory: Tensor | None, view: View, scores: Scores = None) -> tuple[Tensor, Scores]:
        """
        Args:
            query: (Nq, H) the tokens that attend. Where it is `memory` itself, one product projects all.
            memory: (Nk, H) the tokens that are attended to. With a cache, those that are not in it yet; None where all
                are.
            view: which of them each query may attend to.
            scores: with `residual`, the layer before's, one tensor for each group; None in the first layer.

        Returns:
            (Nq, H); and with `residual` this layer's scores, else None.
        """
        to_query, *to_key_value = self.linear_layers
        if query is memory and view.cache is None and self.rotary is None:
            projected, packed = None, _side_by_side(self.linear_layers, query)
        else:
            projected = to_query(query)
            packed = view.remember(lambda: self._turned(_side_by_side(to_key_value, memory), view))
            if self.rotary is not None:
                projected = self.rotary(projected, view.positions()[0], self.heads.size)
        drop = self.dropout if self.training else 0.0
        output, scores = view.attend(projected, packed, self.heads, drop, residual=self.residual, scores=scores)
        return self.final_linear(output), scores

    def _turned(self, packed: Tensor, view: View) -> Tensor:
        """Keys and values (Nk, 2 * kv_heads * head_size) with the keys turned by their positions."""
        if self.rotary is None:
            return packed
        keys, values = packed.chunk(2, dim=-1)
        return torch.cat([self.rotary(keys, view.positions()[1], self.heads.size), values], dim=-1)


def _side_by_side(layers: Sequence[nn.Module], hidden: Tensor) -> Tensor:
    """The layers' outputs in one matrix (N, sum of widths): from one product where all of them are plain, and one more
    where some have adapters."""
    if not all(map(_is_plain, layers)):
        return torch.cat([layer(hidden) for layer in layers], dim=-1)
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    projected = F.linear(hidden, torch.cat([layer.weight for layer in layers]), bias)
    adapted = any(isinstance(layer, LoraLinear) for layer in layers)
    return projected + adapters_side_by_side(layers, hidden) if adapted else projected


def _is_plain(layer: nn.Module) -> bool:
    """Whether calling the layer does nothing but F.linear of its weight and bias, and what its adapter adds.

    Not so where the layer is wrapped or parametrised (its type is another then), or has hooks.
    """
    return (type(layer) in (Linear, LoraLinear) and "forward" not in vars(layer)
            and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
                     or layer._backward_pre_hooks))
