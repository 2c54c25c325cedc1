"""The transformer encoder with the variations of UER-py's configuration files."""

from torch import Tensor, nn

from uer.config import ModelConfig
from uer.encoders.base import Encoder, select
from uer.layers import recompute
from uer.layers.activations import ACTIVATIONS
from uer.layers.layout import Layout, Queries
from uer.layers.linear import Linear
from uer.layers.norm import build_norm
from uer.layers.relative_position import RelativePositionBias
from uer.layers.transformer import TransformerLayer
from uer.layers.view import MASKS, Cache, View
from uer.registry import choose


class TransformerEncoder(Encoder):
    """A stack of `layers_num` layers: BERT's, ALBERT's, GPT-2's, T5's or RealFormer's, as the configuration says.

    `transformer` is a ModuleList of layers, or one layer where all share their parameters (UER's names).
    """

    keeps_documents_apart = True
    has_cache = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rule = choose(MASKS, config.mask, "mask")
        self.layers_num = config.layers_num
        self.activation_checkpointing = recompute.OFF
        bias = not config.remove_transformer_bias
        self.linear = (Linear(config.emb_size, config.hidden_size) if config.factorized_embedding_parameterization
                       else None)
        if config.parameter_sharing:
            self.transformer = _layer(config, bias)
        else:
            self.transformer = nn.ModuleList(_layer(config, bias) for _ in range(config.layers_num))
        self.layer_norm = (build_norm(config.layernorm, config.hidden_size, config.layernorm_eps)
                           if config.layernorm_positioning == "pre" else None)
        self.relative_pos_emb = (RelativePositionBias(config.heads_num, config.relative_attention_buckets_num)
                                 if config.relative_position_embedding else None)

    @classmethod
    def problems(cls, config: ModelConfig) -> list[str]:
        """Sizes that do not fit one another."""
        found = []
        if config.attention_head_size is None and config.hidden_size % max(config.heads_num, 1):
            found.append(f"hidden_size {config.hidden_size} is not divisible by heads_num {config.heads_num}")
        if config.emb_size != config.hidden_size and not config.factorized_embedding_parameterization:
            found.append(f"emb_size {config.emb_size} differs from hidden_size {config.hidden_size} "
                         "without factorized_embedding_parameterization")
        return found

    @classmethod
    def sees(cls, config: ModelConfig) -> str:
        """As the mask says."""
        return {"causal": "earlier", "causal_with_prefix": "prefix"}.get(config.mask, "all")

    def layers(self) -> list[TransformerLayer]:
        """The layers in the order they run; with shared parameters, the one layer as often as it runs."""
        if isinstance(self.transformer, nn.ModuleList):
            return list(self.transformer)
        return [self.transformer] * self.layers_num

    def checkpoint_activations(self, mode: str) -> None:
        """Recompute each layer in the backward pass."""
        self.activation_checkpointing = mode

    def forward(self, embedded: Tensor, layout: Layout, queries: Queries | None = None,
                cache: Cache | None = None) -> Tensor:
        """(N, E) -> (N, H), or (K, H) for the tokens that are wanted: of the others, the last layer computes nothing
        but keys and values.

        Args:
            cache: for generation with a causal mask: `layout` then has the tokens that follow those of the forwards
                before, `padded_layout(seg, starts, first=cache.length)`.
        """
        hidden = embedded if self.linear is None else self.linear(embedded)
        length = layout.first + layout.seg.shape[1]
        bias = self.relative_pos_emb(length, layout.first) if self.relative_pos_emb is not None else None
        view, scores = View(self.rule, layout, bias=bias, cache=cache), None
        narrow = queries is not None and cache is None
        *layers, last = self.layers()
        for layer in layers:
            hidden, scores = self._run(layer, hidden, view, scores)
        hidden, _ = self._run(last, hidden, view.narrowed(queries) if narrow else view, scores)
        if not narrow:
            hidden = select(hidden, queries)
        return hidden if self.layer_norm is None else self.layer_norm(hidden)

    def _run(self, layer: TransformerLayer, *inputs: object) -> tuple[Tensor, list[Tensor] | None]:
        return recompute.run(layer, self.activation_checkpointing, *inputs)


def _layer(config: ModelConfig, bias: bool) -> TransformerLayer:
    return TransformerLayer(
        config.hidden_size, config.heads_num, config.feedforward_size,
        choose(ACTIVATIONS, config.hidden_act, "hidden_act"), config.dropout,
        pre_norm=config.layernorm_positioning == "pre", feed_forward=config.feed_forward, norm=config.layernorm,
        bias=bias, scale=not config.remove_attention_scale, residual_attention=config.has_residual_attention,
        head_size=config.attention_head_size, eps=config.layernorm_eps)
