"""One more token of each row through a transformer of plain layers, for generation.

The same mathematics as `uer.encoders.transformer` and `uer.decoders.transformer` have for a row with a cache, in fewer
operations: with one token a row, starting an operation takes longer than its arithmetic. Query, key and value are one
product whose weight is joined once, the cache has its final size from the beginning, and masks and position biases of
all steps are made before the first. `is_plain` says for which models it stands.
"""

from collections.abc import Callable, Iterable
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.decoders import TransformerDecoder
from uer.embeddings import (
    EmbeddingSum,
    PositionEmbedding,
    SegmentEmbedding,
    SinusoidalPositionEmbedding,
    WordEmbedding,
)
from uer.encoders import TransformerEncoder
from uer.layers.attention import Attention
from uer.layers.dropout import Dropout
from uer.layers.feed_forward import DenseFeedForward, GatedFeedForward
from uer.layers.linear import Embedding, Linear
from uer.layers.masks import HIDDEN
from uer.layers.norm import LayerNorm, T5LayerNorm
from uer.layers.relative_position import AlibiBias, RelativePositionBias
from uer.layers.rotary import turned
from uer.layers.transformer import DecoderLayer, TransformerLayer
from uer.layers.view import Cache

PLAIN = {TransformerEncoder, TransformerDecoder, nn.ModuleList, TransformerLayer, DecoderLayer, Attention, Linear,
         Dropout, LayerNorm, T5LayerNorm, DenseFeedForward, GatedFeedForward, EmbeddingSum, WordEmbedding,
         PositionEmbedding, SegmentEmbedding, SinusoidalPositionEmbedding, Embedding, RelativePositionBias,
         AlibiBias}
LEAST_STEPS = 32  # for which the output layer's weight is worth transposing

Product = tuple[Tensor, Tensor | None]
"""The weight (out, in) and the bias (out,) of a linear layer."""


def is_plain(*parts: nn.Module) -> bool:
    """Whether these parts of a model compute nothing but what this module does: no wrapper, no hook, no variation that
    it does not know, one floating-point type."""
    modules = [module for part in parts for module in part.modules()]
    types = {parameter.dtype for part in parts for parameter in part.parameters()}
    device = next(parts[0].parameters()).device.type
    return (all(map(_is_plain_module, modules)) and len(types) == 1 and not torch.is_autocast_enabled(device)
            and types <= {torch.float32, torch.float64})


def _is_plain_module(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    if type(module) not in PLAIN or "forward" in vars(module) or any(hooks):
        return False
    if isinstance(module, Attention):
        return not module.residual
    if isinstance(module, TransformerEncoder):
        heads = module.layers()[0].self_attn.heads
        grouped = heads.kv_heads < heads.heads
        return module.rule.causal and not any(module.local) and not (grouped and module.relative_pos_emb is not None)
    return True


class PlainStack:
    """R rows that grow by a token in each step.

    Args:
        embedding: of the tokens.
        stack: the encoder with a causal mask, or the decoder.
        cache: what the forward of the tokens before has left; R rows of T columns.
        room: the most columns that a row will have.
        first: (R,) the column of each row's first token, where padding stands before some; None where it does not.
        seg: the segment of new tokens.
        memory: for a decoder, the cache of the encoder's output, and (R, S) the segments of its tokens.
    """

    def __init__(self, embedding: EmbeddingSum, stack: TransformerEncoder | TransformerDecoder, cache: Cache,
                 room: int, *, first: Tensor | None = None, seg: int = 1,
                 memory: tuple[Cache, Tensor] | None = None) -> None:
        decodes = isinstance(stack, TransformerDecoder)
        self.embedding, self.final_norm, self.first, self.seg = embedding, stack.layer_norm, first, seg
        self.linear = None if decodes else stack.linear
        self.layers = [_Layer(layer) for layer in (stack.transformer_decoder if decodes else stack.layers())]
        self.length = cache.length
        before = torch.cat(cache.packed, -1).transpose(0, 1)  # (T, R, layers * 2 * width)
        self.kept = before.new_empty(room, *before.shape[1:])
        self.kept[:self.length] = before
        self.other: Tensor | None = None  # what rows are selected into, in turns with `kept`
        self._view()
        rotary, heads = self.layers[0].attention.rotary, self.layers[0].heads
        columns = torch.arange(room, device=before.device)
        self.turns = None if rotary is None else rotary.turns(columns, heads.size)  # (room, 1, size / 2, 2)
        self.mask = self._masks(stack.self_pos_emb if decodes else stack.relative_pos_emb, room)
        if memory is not None:
            context, memory_seg = memory
            hidden = (memory_seg == 0)[:, None, None]  # (R, 1, 1, S)
            self.memory_mask = self._added(hidden) if hidden.any() else None
            heads = self.layers[0].heads
            self.memory = [packed.unflatten(-1, (2, heads.heads, heads.size)).permute(2, 0, 3, 1, 4).unbind()
                           for packed in context.packed]  # keys and values (R, heads, S, size)

    def _view(self) -> None:
        """Keys and values of each layer as (R, kv_heads, room, size), in the memory of `kept`."""
        heads = self.layers[0].heads
        views = self.kept.unflatten(-1, (len(self.layers), 2, heads.kv_heads, heads.size))
        self.pairs = [layer.unbind() for layer in views.permute(2, 3, 1, 4, 0, 5)]
        self.new = self.kept.unflatten(-1, (len(self.layers), -1))  # (room, R, layers, 2 * width)

    def _added(self, hidden: Tensor) -> Tensor:
        """A mask to be added to scores: HIDDEN where `hidden`."""
        return torch.zeros(hidden.shape, dtype=self.kept.dtype, device=hidden.device).masked_fill(hidden, HIDDEN)

    def _masks(self, bias: RelativePositionBias | AlibiBias | None, room: int) -> Callable[[int], Tensor | None]:
        """Says what is added to the scores of a query at the last of `length` columns: (R or 1, heads or 1, 1, length)
        or None."""
        padding = None
        if self.first is not None:
            columns = torch.arange(room, device=self.first.device)
            padding = self._added((columns < self.first[:, None])[:, None, None])  # (R, 1, 1, room)
        if bias is None:
            return lambda length: None if padding is None else padding[..., :length]
        # The bias depends on the distance alone: that of a shorter row is the end of the longest one's.
        biases = bias(room, room - 1) * self.layers[0].heads.scale  # (1, heads, 1, room)

        def mask(length: int) -> Tensor:
            part = biases[..., room - length:]
            return part if padding is None else part + padding[..., :length]

        return mask

    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens (R,), and return their last hidden states (R, H)."""
        column, self.length = self.length, self.length + 1
        hidden, mask, turns = self._embedded(tokens, column), self.mask(self.length), self._turns(column)
        for number, layer in enumerate(self.layers):
            key, value = (part[:, :, :self.length] for part in self.pairs[number])
            slot = self.new[column, :, number]
            hidden = layer.part(layer.attend_to_own, 0, hidden, slot, key, value, mask, turns)
            if layer.context is not None:
                hidden = layer.part(layer.attend_to_memory, 1, hidden, *self.memory[number], self.memory_mask)
            hidden = layer.part(layer.feed_forward, -1, hidden)
        return hidden if self.final_norm is None else self.final_norm.forward(hidden)

    def _turns(self, column: int) -> Tensor | None:
        """`Rotary.turns` for the tokens in a column, (R or 1, 1, size / 2, 2); None without rotary positions."""
        if self.turns is None:
            return None
        return self.turns[column:column + 1] if self.first is None else self.turns[column - self.first]

    def _embedded(self, tokens: Tensor, column: int) -> Tensor:
        """tokens (R,) in a column -> (R, H)"""
        total = reduce(add, [self._part(name, tokens, column) for name in self.embedding.names])
        if self.embedding.layer_norm is not None:
            total = self.embedding.layer_norm.forward(total)
        return total if self.linear is None else self.linear.forward(total)

    def _part(self, name: str, tokens: Tensor, column: int) -> Tensor:
        """One embedding of the sum, (R, E), or (E,) where it is the same for all rows."""
        part = getattr(self.embedding, name)
        if isinstance(part, WordEmbedding):
            rows = F.embedding(tokens, part.embedding.weight)
            return rows * self.embedding.scale[name] if name in self.embedding.scale else rows
        if isinstance(part, SegmentEmbedding):
            return part.embedding.weight[self.seg]
        table = part.table if isinstance(part, SinusoidalPositionEmbedding) else part.embedding.weight
        return table[column if self.first is None else column - self.first]

    def select_rows(self, rows: Tensor) -> None:
        """Keep rows (R,) of the R, each of the same prompt as before."""
        if self.other is None:
            self.other = torch.empty_like(self.kept)
        torch.index_select(self.kept[:self.length], 1, rows, out=self.other[:self.length])
        self.kept, self.other = self.other, self.kept
        self._view()


class _Layer:
    """The weights of a layer."""

    def __init__(self, layer: TransformerLayer) -> None:
        self.attention, self.heads = layer.self_attn, layer.self_attn.heads
        self.width = self.heads.heads * self.heads.size
        self.pre_norm = layer.pre_norm
        self.project, self.own = _joined(layer.self_attn.linear_layers), _joined([layer.self_attn.final_linear])
        self.context: tuple[Product, Product] | None = None
        self.norms = [layer.layer_norm_1.forward, layer.layer_norm_2.forward]
        if isinstance(layer, DecoderLayer):
            self.norms.append(layer.layer_norm_3.forward)
            attention = layer.context_attn
            self.context = _joined(attention.linear_layers[:1]), _joined([attention.final_linear])
        inner = layer.feed_forward
        gates = [inner.linear_gate] if isinstance(inner, GatedFeedForward) else []
        self.activation = inner.activation
        self.gated, self.wide, self.narrow = bool(gates), _joined([*gates, inner.linear_1]), _joined([inner.linear_2])

    def part(self, function: Callable[..., Tensor], norm: int, hidden: Tensor, *others: Tensor | None) -> Tensor:
        """The function's result for (R, H) and `others`, added to (R, H), with the layer's norm number `norm`."""
        if self.pre_norm:
            return hidden + function(self.norms[norm](hidden), *others)
        return self.norms[norm](hidden + function(hidden, *others))

    def attend_to_own(self, inner: Tensor, slot: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
                      turns: Tensor | None) -> Tensor:
        """(R, H) -> (R, H): its keys and values (R, 2 * kv_heads * size) are put into `slot`, the last column of `key`
        and `value` (R, kv_heads, T, size); `turns` are those of the token's position."""
        query, new = F.linear(inner, *self.project).tensor_split([self.width], dim=-1)
        slot.copy_(new)
        attention = self.attention
        if turns is not None or attention.key_layer_norm is not None:
            width = slot.shape[-1] // 2
            slot[:, :width] = self._placed(new[:, :width], attention.key_layer_norm, turns)
            query = self._placed(query, attention.query_layer_norm, turns)
        return self._attended(query, key, value, mask, self.own)

    def _placed(self, vectors: Tensor, norm: nn.Module | None, turns: Tensor | None) -> Tensor:
        """Queries or keys (R, heads * size), normalised and turned where the layer does so."""
        vectors = self.attention.normalised(vectors, norm)
        return vectors if turns is None else turned(vectors, turns)

    def attend_to_memory(self, inner: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """(R, H) -> (R, H), to keys and values (R, heads, S, size)"""
        project, output = self.context
        return self._attended(F.linear(inner, *project), key, value, mask, output)

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, output: Product) -> Tensor:
        # (R, kv_heads, heads / kv_heads, size): those that share keys and values are their queries
        query = query.unflatten(-1, (self.heads.kv_heads, -1, self.heads.size))
        attended = F.scaled_dot_product_attention(query, key, value, mask, scale=self.heads.scale)
        return F.linear(attended.flatten(1), *output)

    def feed_forward(self, inner: Tensor) -> Tensor:
        """(R, H) -> (R, H)"""
        wide = F.linear(inner, *self.wide)
        if self.gated:
            gate, wide = wide.chunk(2, dim=-1)
            return F.linear(self.activation(gate) * wide, *self.narrow)
        return F.linear(self.activation(wide), *self.narrow)


def _joined(layers: Iterable[nn.Module]) -> Product:
    """The layers as one, their outputs side by side."""
    layers = list(layers)
    if len(layers) == 1:
        return layers[0].weight, layers[0].bias
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return torch.cat([layer.weight for layer in layers]), bias


def output_layer(weight: Tensor, bias: Tensor | None, steps: int) -> Callable[[Tensor], Tensor]:
    """A function (R, H) -> logits (R, V).

    On a CPU the product of few rows with a weight that lies transposed in memory, (H, V), takes half the time of that
    with (V, H), so that for many steps it is copied.
    """
    if weight.device.type == "cpu" and steps >= LEAST_STEPS:
        weight = weight.t().contiguous().t()
    return lambda hidden: F.linear(hidden, weight, bias)


def top_entries(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest logits (R, V) of each row and their entries, as `logits.topk(count)`: both (R, count).

    A selection among all entries is slow, and a maximum is not. Column c of the entries laid out in C rows of n has the
    entries c, c + n, ...; the `count` largest entries lie in the `count` columns of the largest maxima:

        V = 7, n = 3, count = 1     5 1 9     maxima 5 8 9  -> column 2: 9, 4      and the rest, 6  ->  9
                                    2 8 4
                                    6
    """
    entries = logits.shape[-1]
    height = int((entries / max(count, 1)) ** 0.5)
    columns = entries // max(height, 1)
    if height < 4 or columns < count:
        return logits.topk(count)
    table = logits[:, :height * columns].unflatten(-1, (height, columns))
    chosen = table.amax(1).topk(count, sorted=False).indices  # (R, count) columns
    offsets = torch.arange(0, height * columns, columns, device=logits.device)
    candidates = (chosen[:, :, None] + offsets).flatten(1)  # (R, count * height)
    rest = torch.arange(height * columns, entries, device=logits.device).expand(len(logits), -1)
    candidates = torch.cat([candidates, rest], 1)
    values, index = logits.gather(1, candidates).topk(count)
    return values, candidates.gather(1, index)
