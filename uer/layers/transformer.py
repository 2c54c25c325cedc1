"""One layer of a transformer encoder: attention and feed-forward, each with dropout, residual sum and norm."""

from collections.abc import Callable

from torch import Tensor, nn

from uer.layers.attention import Scores, SelfAttention
from uer.layers.dropout import Dropout
from uer.layers.feed_forward import FEED_FORWARDS
from uer.layers.layout import Layout, Queries
from uer.layers.norm import NORMS


class TransformerLayer(nn.Module):
    """Post-norm: norm(x + f(x)), as BERT. Pre-norm: x + f(norm(x)), as GPT-2 and T5."""

    def __init__(self, hidden_size: int, heads: int, feedforward_size: int, activation: Callable[[Tensor], Tensor],
                 dropout: float, *, pre_norm: bool = False, feed_forward: str = "dense", norm: str = "normal",
                 bias: bool = True, scale: bool = True, residual_attention: bool = False) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = SelfAttention(hidden_size, heads, dropout, bias=bias, scale=scale,
                                       residual=residual_attention)
        self.dropout_1 = Dropout(dropout)
        self.feed_forward = FEED_FORWARDS[feed_forward](hidden_size, feedforward_size, activation, bias)
        self.dropout_2 = Dropout(dropout)
        self.layer_norm_1 = NORMS[norm](hidden_size)
        self.layer_norm_2 = NORMS[norm](hidden_size)

    def forward(self, hidden: Tensor, layout: Layout, bias: Tensor | None = None, scores: Scores = None,
                queries: Queries | None = None) -> tuple[Tensor, Scores]:
        """(N, H) -> (N, H), or (K, H) for `queries`; the other arguments and results are `SelfAttention`'s."""
        inner = self.layer_norm_1(hidden) if self.pre_norm else hidden
        attended, scores = self.self_attn(inner, layout, bias, scores, queries)
        if queries is not None:
            hidden = hidden.index_select(0, queries.index)
        hidden = self.dropout_1(attended, hidden)
        if self.pre_norm:
            return self.dropout_2(self.feed_forward(self.layer_norm_2(hidden)), hidden), scores
        hidden = self.layer_norm_1(hidden)
        return self.layer_norm_2(self.dropout_2(self.feed_forward(hidden), hidden)), scores
