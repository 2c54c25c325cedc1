"""The transformer encoder with the variations of UER-py's configuration files."""

from dataclasses import replace

from torch import Tensor, nn

from uer.config import ModelConfig
from uer.encoders.base import Encoder, select
from uer.layers import recompute
from uer.layers.activations import ACTIVATIONS
from uer.layers.layout import Layout, Queries
from uer.layers.linear import Linear
from uer.layers.masks import MASKS
from uer.layers.norm import build_norm
from uer.layers.relative_position import AlibiBias, RelativePositionBias
from uer.layers.rotary import Rotary
from uer.layers.transformer import TransformerLayer
from uer.layers.view import Cache, View
from uer.registry import choose


class TransformerEncoder(Encoder):
    """A stack of `layers_num` layers: BERT's, ALBERT's, GPT-2's, T5's, RealFormer's, LLaMA's, BLOOM's or ModernBERT's,
    as the configuration says.

    `transformer` is a ModuleList of layers, or one layer where all share their parameters (UER's names).
    """

    keeps_documents_apart = True
    has_cache = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rule = choose(MASKS, config.mask, "mask")
        self.local_rule = replace(self.rule, window=config.attention_window)
        self.local = [is_local(config, number) for number in range(config.layers_num)]
        self.layers_num = config.layers_num
        self.activation_checkpointing = recompute.OFF
        self.linear = (Linear(config.emb_size, config.hidden_size) if config.factorized_embedding_parameterization
                       else None)
        if config.parameter_sharing:
            self.transformer = _layer(config, 0)
        else:
            self.transformer = nn.ModuleList(_layer(config, number) for number in range(config.layers_num))
        self.layer_norm = (build_norm(config.layernorm, config.hidden_size, config.layernorm_eps,
                                      not config.remove_layernorm_bias)
                           if config.layernorm_positioning == "pre" else None)
        self.relative_pos_emb = None
        if config.alibi_position_embedding:
            self.relative_pos_emb = AlibiBias(config.heads_num, self.layers()[0].self_attn.heads.scale)
        elif config.relative_position_embedding:
            self.relative_pos_emb = RelativePositionBias(config.heads_num, config.relative_attention_buckets_num)

    @classmethod
    def problems(cls, config: ModelConfig) -> list[str]:
        """Sizes that do not fit one another."""
        found = []
        if config.attention_head_size is None and config.hidden_size % max(config.heads_num, 1):
            found.append(f"hidden_size {config.hidden_size} is not divisible by heads_num {config.heads_num}")
        if config.emb_size != config.hidden_size and not config.factorized_embedding_parameterization:
            found.append(f"emb_size {config.emb_size} differs from hidden_size {config.hidden_size} "
                         "without factorized_embedding_parameterization")
        size = config.attention_head_size or config.hidden_size // max(config.heads_num, 1)
        if config.rotary_position_embedding and size % 2:
            found.append(f"rotary_position_embedding needs heads of an even size, not {size}")
        if config.parameter_sharing and (config.remove_first_layernorm or config.local_rotary_base):
            found.append("parameter_sharing: all layers are the same one, so neither remove_first_layernorm nor "
                         "local_rotary_base fits")
        if config.attention_window and config.has_residual_attention:
            found.append("has_residual_attention hands scores on to layers that attend to other tokens where there is "
                         "an attention_window")
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
        # Autocast's product is bfloat16; without `to`, so would be every residual sum of the layers.
        hidden = embedded if self.linear is None else self.linear(embedded).to(embedded.dtype)
        length = layout.first + layout.seg.shape[1]
        bias = self.relative_pos_emb(length, layout.first) if self.relative_pos_emb is not None else None
        view, scores = View(self.rule, layout, bias=bias, cache=cache), None
        local = view.with_rule(self.local_rule) if any(self.local) else view
        views = [local if is_one else view for is_one in self.local]
        # In packed rows, the kernel for different lengths takes a window only with all queries.
        narrow = queries is not None and cache is None and not (layout.packed and self.local[-1])
        *layers, last = self.layers()
        for layer, its_view in zip(layers, views):
            hidden, scores = self._run(layer, hidden, its_view, scores)
        hidden, _ = self._run(last, hidden, views[-1].narrowed(queries) if narrow else views[-1], scores)
        if not narrow:
            hidden = select(hidden, queries)
        return hidden if self.layer_norm is None else self.layer_norm(hidden)

    def _run(self, layer: TransformerLayer, *inputs: object) -> tuple[Tensor, list[Tensor] | None]:
        return recompute.run(layer, self.activation_checkpointing, *inputs)


def is_local(config: ModelConfig, number: int) -> bool:
    """Whether layer `number` of 0, 1, ... attends to the tokens of a window only."""
    every = config.global_attention_every
    return config.attention_window > 0 and not (every and number % every == 0)


def _layer(config: ModelConfig, number: int) -> TransformerLayer:
    base = config.local_rotary_base if is_local(config, number) else None
    return TransformerLayer(
        config.hidden_size, config.heads_num, config.feedforward_size,
        choose(ACTIVATIONS, config.hidden_act, "hidden_act"), config.dropout,
        pre_norm=config.layernorm_positioning == "pre", feed_forward=config.feed_forward, norm=config.layernorm,
        bias=not config.remove_transformer_bias, scale=not config.remove_attention_scale,
        residual_attention=config.has_residual_attention, head_size=config.attention_head_size,
        eps=config.layernorm_eps, norm_bias=not config.remove_layernorm_bias,
        first_norm=number > 0 or not config.remove_first_layernorm, kv_heads=config.local_kv_heads_num,
        rotary=Rotary(base or config.rotary_base) if config.rotary_position_embedding else None,
        input_bias=config.query_key_value_bias, head_norm=config.query_key_layernorm)
