"""Multi-head attention (Vaswani et al., 2017) on rows laid end to end."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from uer.layers.linear import Linear, linear
from uer.layers.lora import LoraLinear, adapters_side_by_side
from uer.layers.norm import build_norm
from uer.layers.rotary import Rotary, turned
from uer.layers.view import Heads, Scores, View


class Attention(nn.Module):
    """Self-attention of encoders and decoders, and attention of a decoder to its encoder: the `View` says which.

    `linear_layers` are query, key and value, as UER names them; where they are plain layers of one input they run as
    one matrix product.
    """

    def __init__(self, hidden_size: int, heads: int, *, head_size: int | None = None, kv_heads: int | None = None,
                 rotary: Rotary | None = None, dropout: float = 0.0, bias: bool = True, scale: bool = True,
                 residual: bool = False, input_bias: bool = False, head_norm: str = "",
                 eps: float | None = None) -> None:
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
            input_bias: whether query, key and value have biases where the other layers have none (Qwen2).
            head_norm: kind of the norm over each head of queries and of keys (Henry et al., 2020; Qwen3); "" is none.
            eps: what that norm adds to the variance; the kind's own where None.
        """
        super().__init__()
        assert head_size is not None or hidden_size % heads == 0
        head_size, kv_heads = head_size or hidden_size // heads, kv_heads or heads
        assert heads % kv_heads == 0 and (rotary is None or head_size % 2 == 0)
        self.heads = Heads(heads, kv_heads, head_size, 1.0 / math.sqrt(head_size) if scale else 1.0)
        self.rotary, self.dropout, self.residual = rotary, dropout, residual
        widths = (heads * head_size, kv_heads * head_size, kv_heads * head_size)
        self.linear_layers = nn.ModuleList(Linear(hidden_size, width, bias or input_bias) for width in widths)
        self.final_linear = Linear(heads * head_size, hidden_size, bias)
        self.query_layer_norm = build_norm(head_norm, head_size, eps) if head_norm else None
        self.key_layer_norm = build_norm(head_norm, head_size, eps) if head_norm else None

    def forward(self, query: Tensor, memory: Tensor | None, view: View, scores: Scores = None) -> tuple[Tensor, Scores]:
        """Project, attend, and project the result.

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
        if query is memory and view.cache is None:
            projected, packed = None, self._placed(_side_by_side(self.linear_layers, query), view)
        else:
            projected = self._placed_query(to_query(query), view)
            packed = view.remember(lambda: self._placed_keys(_side_by_side(to_key_value, memory), view))
        drop = self.dropout if self.training else 0.0
        output, scores = view.attend(projected, packed, self.heads, drop, residual=self.residual, scores=scores)
        return self.final_linear(output), scores

    def _placed(self, joined: Tensor, view: View) -> Tensor:
        """Queries, keys and values side by side, (N, (heads + 2 * kv_heads) * head_size): `_placed_query` of the first,
        `_placed_keys` of the others."""
        if self.rotary is None and self.query_layer_norm is None:
            return joined
        query, packed = joined.tensor_split([self.heads.heads * self.heads.size], dim=-1)
        return torch.cat([self._placed_query(query, view), self._placed_keys(packed, view)], dim=-1)

    def _placed_query(self, query: Tensor, view: View) -> Tensor:
        """Queries (Nq, heads * head_size), normalised and turned by their positions where the settings say so."""
        query = self.normalised(query, self.query_layer_norm)
        return query if self.rotary is None else turned(query, view.turns(self.rotary, self.heads.size)[0])

    def _placed_keys(self, packed: Tensor, view: View) -> Tensor:
        """Keys and values (Nk, 2 * kv_heads * head_size), the keys as `_placed_query`."""
        if self.rotary is None and self.key_layer_norm is None:
            return packed
        keys, values = packed.chunk(2, dim=-1)
        keys = self.normalised(keys, self.key_layer_norm)
        if self.rotary is not None:
            keys = turned(keys, view.turns(self.rotary, self.heads.size)[1])
        return torch.cat([keys, values], dim=-1)

    def normalised(self, vectors: Tensor, norm: nn.Module | None) -> Tensor:
        """Queries or keys (N, heads * head_size), the norm, if there is one, applied to each head; in the same type,
        as on a GPU autocast's norms return float32, which the fused kernels of attention do not take."""
        if norm is None:
            return vectors
        return norm(vectors.unflatten(-1, (-1, self.heads.size))).flatten(1).to(vectors.dtype)


def _side_by_side(layers: Sequence[nn.Module], hidden: Tensor) -> Tensor:
    """The layers' outputs in one matrix (N, sum of widths): from one product where all of them are plain, and one more
    where some have adapters."""
    if not all(map(_is_plain, layers)):
        return torch.cat([layer(hidden) for layer in layers], dim=-1)
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    projected = linear(hidden, torch.cat([layer.weight for layer in layers]), bias)
    adapted = any(isinstance(layer, LoraLinear) for layer in layers)
    return projected + adapters_side_by_side(layers, hidden) if adapted else projected


def _is_plain(layer: nn.Module) -> bool:
    """Whether calling the layer does nothing but `linear` of its weight and bias, and what its adapter adds.

    Not so where the layer is wrapped or parametrised (its type is another then), or has hooks.
    """
    return (type(layer) in (Linear, LoraLinear) and "forward" not in vars(layer)
            and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
                     or layer._backward_pre_hooks))
