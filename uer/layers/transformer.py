"""One layer of a transformer, of an encoder or of a decoder: its parts with dropout, residual sum and norm each."""

from collections.abc import Callable

from torch import Tensor, nn

from uer.layers.attention import Attention
from uer.layers.dropout import Dropout
from uer.layers.feed_forward import FEED_FORWARDS
from uer.layers.norm import build_norm
from uer.layers.rotary import Rotary
from uer.layers.view import Scores, View


class TransformerLayer(nn.Module):
    """Post-norm: norm(x + f(x)), as BERT. Pre-norm: x + f(norm(x)), as GPT-2 and T5."""

    def __init__(self, hidden_size: int, heads: int, feedforward_size: int, activation: Callable[[Tensor], Tensor],
                 dropout: float, *, pre_norm: bool = False, feed_forward: str = "dense", norm: str = "normal",
                 bias: bool = True, scale: bool = True, residual_attention: bool = False,
                 head_size: int | None = None, eps: float | None = None, norm_bias: bool = True,
                 first_norm: bool = True, kv_heads: int | None = None, rotary: Rotary | None = None,
                 input_bias: bool = False, head_norm: bool = False) -> None:
        """
        Args:
            pre_norm: where the norms are.
            norm, eps, norm_bias: `build_norm`'s.
            first_norm: whether there is a norm before attention; in ModernBERT's first layer there is none.
            head_norm: whether each head of queries and keys is normalised, by a norm of the same kind.

        The others are `Attention`'s and the feed-forward part's.
        """
        super().__init__()
        assert first_norm or pre_norm
        self.pre_norm = pre_norm
        self.self_attn = Attention(hidden_size, heads, head_size=head_size, dropout=dropout, bias=bias, scale=scale,
                                   residual=residual_attention, kv_heads=kv_heads, rotary=rotary,
                                   input_bias=input_bias, head_norm=norm if head_norm else "", eps=eps)
        self.dropout_1 = Dropout(dropout)
        self.feed_forward = FEED_FORWARDS[feed_forward](hidden_size, feedforward_size, activation, bias)
        self.dropout_2 = Dropout(dropout)
        self.layer_norm_1 = build_norm(norm, hidden_size, eps, norm_bias) if first_norm else nn.Identity()
        self.layer_norm_2 = build_norm(norm, hidden_size, eps, norm_bias)

    def forward(self, hidden: Tensor, view: View, scores: Scores = None) -> tuple[Tensor, Scores]:
        """hidden (N, H) -> (N, H), or (K, H) for the view's wanted queries; `scores` are `Attention`'s."""
        inner = self.layer_norm_1(hidden) if self.pre_norm else hidden
        attended, scores = self.self_attn(view.select(inner), inner, view, scores)
        hidden = self.dropout_1(attended, view.select(hidden))
        if self.pre_norm:
            return self.dropout_2(self.feed_forward(self.layer_norm_2(hidden)), hidden), scores
        hidden = self.layer_norm_1(hidden)
        return self.layer_norm_2(self.dropout_2(self.feed_forward(hidden), hidden)), scores


class DecoderLayer(TransformerLayer):
    """A layer that also attends to an encoder's output, between attention to its own tokens and the feed-forward part.

    `layer_norm_1` belongs to self-attention, `layer_norm_2` to the context, `layer_norm_3` to the feed-forward part.
    """

    def __init__(self, hidden_size: int, heads: int, feedforward_size: int, activation: Callable[[Tensor], Tensor],
                 dropout: float, *, pre_norm: bool = False, feed_forward: str = "dense", norm: str = "normal",
                 bias: bool = True, scale: bool = True, head_size: int | None = None,
                 eps: float | None = None) -> None:
        super().__init__(hidden_size, heads, feedforward_size, activation, dropout, pre_norm=pre_norm,
                         feed_forward=feed_forward, norm=norm, bias=bias, scale=scale, head_size=head_size, eps=eps)
        self.context_attn = Attention(hidden_size, heads, head_size=head_size, dropout=dropout, bias=bias, scale=scale)
        self.dropout_3 = Dropout(dropout)
        self.layer_norm_3 = build_norm(norm, hidden_size, eps)

    def forward(self, hidden: Tensor, view: View, memory: Tensor | None, context: View) -> Tensor:
        """Attend to the own tokens, then to the encoder's output, then apply the feed-forward part.

        Args:
            hidden: (N, H) the decoder's tokens.
            view: what they may attend to among themselves.
            memory: (Nk, H) the encoder's output; None where the cache of `context` has its keys and values.
            context: what they may attend to of it.

        Returns:
            (N, H), or (K, H) for the view's wanted queries.
        """
        def attend_to_own(inner: Tensor) -> Tensor:
            return self.self_attn(view.select(inner), inner, view)[0]

        def attend_to_memory(inner: Tensor) -> Tensor:
            return self.context_attn(inner, memory, context)[0]

        hidden = self._part(attend_to_own, self.layer_norm_1, self.dropout_1, hidden, view.select(hidden))
        hidden = self._part(attend_to_memory, self.layer_norm_2, self.dropout_2, hidden, hidden)
        return self._part(self.feed_forward, self.layer_norm_3, self.dropout_3, hidden, hidden)

    def _part(self, function: Callable[[Tensor], Tensor], norm: nn.Module, dropout: Dropout, hidden: Tensor,
              residual: Tensor) -> Tensor:
        """function's result for `hidden`, added to `residual`."""
        if self.pre_norm:
            return dropout(function(norm(hidden)), residual)
        return norm(dropout(function(hidden), residual))
