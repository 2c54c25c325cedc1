"""The transformer encoder with the variations of UER-py's configuration files."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from uer.config import ModelConfig
from uer.encoders.masks import add_masks
from uer.layers.activations import ACTIVATIONS
from uer.layers.layout import Layout, Queries
from uer.layers.linear import Linear
from uer.layers.norm import NORMS
from uer.layers.relative_position import RelativePositionBias
from uer.layers.transformer import TransformerLayer
from uer.registry import choose


class TransformerEncoder(nn.Module):
    """A stack of `layers_num` layers: BERT's, ALBERT's, T5's or RealFormer's, as the configuration says.

    `transformer` is a ModuleList of layers, or one layer where all share their parameters (UER's names).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mask = config.mask
        self.layers_num = config.layers_num
        self.activation_checkpointing = False
        self.narrow_last_layer = (config.mask == "fully_visible" and not config.has_residual_attention
                                  and not config.relative_position_embedding)
        bias = not config.remove_transformer_bias
        self.linear = (Linear(config.emb_size, config.hidden_size) if config.factorized_embedding_parameterization
                       else None)
        if config.parameter_sharing:
            self.transformer = _layer(config, bias)
        else:
            self.transformer = nn.ModuleList(_layer(config, bias) for _ in range(config.layers_num))
        self.layer_norm = NORMS[config.layernorm](config.hidden_size) if config.layernorm_positioning == "pre" else None
        self.relative_pos_emb = (RelativePositionBias(config.heads_num, config.relative_attention_buckets_num)
                                 if config.relative_position_embedding else None)

    def layers(self) -> list[TransformerLayer]:
        """The layers in the order they run; with shared parameters, the one layer as often as it runs."""
        if isinstance(self.transformer, nn.ModuleList):
            return list(self.transformer)
        return [self.transformer] * self.layers_num

    def forward(self, embedded: Tensor, layout: Layout, queries: Queries | None = None) -> Tensor:
        """(N, E) -> (N, H), or (K, H) for the tokens that are asked for.

        Where attention allows it, the last layer computes nothing but the keys and values of the other tokens.
        """
        hidden = embedded if self.linear is None else self.linear(embedded)
        add_masks(layout, self.mask, hidden.dtype)
        bias = self.relative_pos_emb(layout.seg.shape[1]) if self.relative_pos_emb is not None else None
        layers, scores = self.layers(), None
        narrow = self.narrow_last_layer and queries is not None
        for number, layer in enumerate(layers):
            last = queries if narrow and number == len(layers) - 1 else None
            if self.activation_checkpointing and self.training:
                hidden, scores = checkpoint(layer, hidden, layout, bias, scores, last, use_reentrant=False)
            else:
                hidden, scores = layer(hidden, layout, bias, scores, last)
        if queries is not None and not narrow:
            hidden = hidden.index_select(0, queries.index)
        return hidden if self.layer_norm is None else self.layer_norm(hidden)


def _layer(config: ModelConfig, bias: bool) -> TransformerLayer:
    return TransformerLayer(
        config.hidden_size, config.heads_num, config.feedforward_size,
        choose(ACTIVATIONS, config.hidden_act, "hidden_act"), config.dropout,
        pre_norm=config.layernorm_positioning == "pre", feed_forward=config.feed_forward, norm=config.layernorm,
        bias=bias, scale=not config.remove_attention_scale, residual_attention=config.has_residual_attention)
