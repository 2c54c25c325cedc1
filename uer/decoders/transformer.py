"""The transformer decoder (Vaswani et al., 2017), with the variations of T5, BART and Pegasus."""

from torch import Tensor, nn

from uer.config import ModelConfig
from uer.decoders.base import Decoder, DecoderCache
from uer.layers import recompute
from uer.layers.activations import ACTIVATIONS
from uer.layers.layout import Layout, Queries
from uer.layers.masks import MASKS, Rule
from uer.layers.norm import build_norm
from uer.layers.relative_position import RelativePositionBias
from uer.layers.transformer import DecoderLayer
from uer.layers.view import View
from uer.registry import choose

NOT_OF_DECODERS = ("rotary_position_embedding", "alibi_position_embedding", "local_kv_heads_num", "attention_window",
                   "remove_layernorm_bias", "remove_first_layernorm", "query_key_value_bias", "query_key_layernorm")


class TransformerDecoder(Decoder):
    """A stack of `decoder_layers_num` layers, each with parameters of its own.

    As in UER-py, `parameter_sharing` and `has_residual_attention` concern the encoder alone, and where there is a
    relative position bias it is added to self-attention only.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation_checkpointing = recompute.OFF
        self.transformer_decoder = nn.ModuleList(_layer(config) for _ in range(config.decoder_layers_num))
        self.layer_norm = (build_norm(config.layernorm, config.hidden_size, config.layernorm_eps)
                           if config.layernorm_positioning == "pre" else None)
        self.self_pos_emb = (RelativePositionBias(config.heads_num, config.relative_attention_buckets_num,
                                                  bidirectional=False)
                             if config.relative_position_embedding else None)

    @classmethod
    def problems(cls, config: ModelConfig) -> list[str]:
        """Sizes that do not fit one another."""
        found = []
        if config.attention_head_size is None and config.hidden_size % max(config.heads_num, 1):
            found.append(f"hidden_size {config.hidden_size} is not divisible by heads_num {config.heads_num}")
        if config.emb_size != config.hidden_size:
            found.append(f"emb_size {config.emb_size} differs from hidden_size {config.hidden_size}, but the decoder "
                         f"'{config.decoder}' does not project its embedding")
        given = [name for name in NOT_OF_DECODERS if getattr(config, name)]
        if given:
            found.append(f"{' and '.join(given)}: the decoder '{config.decoder}' has none, it is for models of an "
                         "encoder alone")
        return found

    def checkpoint_activations(self, mode: str) -> None:
        """Recompute each layer in the backward pass."""
        self.activation_checkpointing = mode

    def forward(self, embedded: Tensor, layout: Layout, memory: Tensor | None, memory_layout: Layout,
                queries: Queries | None = None, cache: DecoderCache | None = None) -> Tensor:
        """(N, H), with memory (Ns, H) -> (N, H), or (K, H) for the tokens that are wanted; see `Decoder.forward`."""
        assert queries is None or cache is None, "a cache needs the keys of all tokens, so all are computed"
        length = layout.first + layout.seg.shape[1]
        bias = self.self_pos_emb(length, layout.first) if self.self_pos_emb is not None else None
        own, context = (None, None) if cache is None else (cache.own, cache.context)
        view = View(MASKS["causal"], layout, bias=bias, cache=own)
        to_memory = View(Rule(), layout, memory=memory_layout, cache=context)
        *layers, last = self.transformer_decoder
        hidden = embedded
        for layer in layers:
            hidden = self._run(layer, hidden, view, memory, to_memory)
        if queries is not None:
            view, to_memory = view.narrowed(queries), to_memory.narrowed(queries)
        hidden = self._run(last, hidden, view, memory, to_memory)
        return hidden if self.layer_norm is None else self.layer_norm(hidden)

    def _run(self, layer: DecoderLayer, *inputs: object) -> Tensor:
        return recompute.run(layer, self.activation_checkpointing, *inputs)


def _layer(config: ModelConfig) -> DecoderLayer:
    return DecoderLayer(
        config.hidden_size, config.heads_num, config.feedforward_size,
        choose(ACTIVATIONS, config.hidden_act, "hidden_act"), config.dropout,
        pre_norm=config.layernorm_positioning == "pre", feed_forward=config.feed_forward, norm=config.layernorm,
        bias=not config.remove_transformer_bias, scale=not config.remove_attention_scale,
        head_size=config.attention_head_size, eps=config.layernorm_eps)
