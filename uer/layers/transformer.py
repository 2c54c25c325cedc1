"""One layer of a transformer encoder: attention and feed-forward, each with dropout, residual sum and norm."""

from collections.abc import Callable

from torch import Tensor, nn

from uer.layers.attention import Attention
from uer.layers.dropout import Dropout
from uer.layers.feed_forward import FEED_FORWARDS
from uer.layers.norm import NORMS
from uer.layers.view import Scores, View


class TransformerLayer(nn.Module):
    """Post-norm: norm(x + f(x)), as BERT. Pre-norm: x + f(norm(x)), as GPT-2 and T5."""

    def __init__(self, hidden_size: int, heads: int, feedforward_size: int, activation: Callable[[Tensor], Tensor],
                 dropout: float, *, pre_norm: bool = False, feed_forward: str = "dense", norm: str = "normal",
                 bias: bool = True, scale: bool = True, residual_attention: bool = False,
                 head_size: int | None = None) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = Attention(hidden_size, heads, head_size=head_size, dropout=dropout, bias=bias, scale=scale,
                                   residual=residual_attention)
        self.dropout_1 = Dropout(dropout)
        self.feed_forward = FEED_FORWARDS[feed_forward](hidden_size, feedforward_size, activation, bias)
        self.dropout_2 = Dropout(dropout)
        self.layer_norm_1 = NORMS[norm](hidden_size)
        self.layer_norm_2 = NORMS[norm](hidden_size)

    def forward(self, hidden: Tensor, view: View, scores: Scores = None) -> tuple[Tensor, Scores]:
        """hidden (N, H) -> (N, H), or (K, H) for the view's wanted queries; `scores` are `Attention`'s."""
        inner = self.layer_norm_1(hidden) if self.pre_norm else hidden
        attended, scores = self.self_attn(view.select(inner), inner, view, scores)
        hidden = self.dropout_1(attended, view.select(hidden))
        if self.pre_norm:
            return self.dropout_2(self.feed_forward(self.layer_norm_2(hidden)), hidden), scores
        hidden = self.layer_norm_1(hidden)
        return self.layer_norm_2(self.dropout_2(self.feed_forward(hidden), hidden)), scores
