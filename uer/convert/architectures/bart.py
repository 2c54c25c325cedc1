"""BART (Lewis et al., 2020): an encoder and a decoder with learned positions, the layer norm after each sub-layer.

The table of UER's tensors is shared with Pegasus, whose layers have the same names.
"""

from uer.convert.architectures.base import Architecture, inputs_with_target
from uer.convert.changes import AddRows, LeadingAxis
from uer.convert.names import TGT_WORD_EMBEDDING, WORD_EMBEDDING, NameTable, Row, Stack, layer_norm, linear
from uer.convert.settings import Setting, activations, probability, uer_only, whole_number

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
# UER's layer norms of a layer of the encoder and of the decoder, by Hugging Face's names in their order.
_ENCODER_NORMS = ("self_attn_layer_norm", "final_layer_norm")
_DECODER_NORMS = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")

WORDS = (
    Row(WORD_EMBEDDING, "model.shared.weight", "vocab hidden"),
    Row(TGT_WORD_EMBEDDING, "model.decoder.embed_tokens.weight", "vocab hidden", tied_to=WORD_EMBEDDING),
)
OUTPUT = (
    Row("target.lm.output_layer.weight", "lm_head.weight", "vocab hidden", tied_to=WORD_EMBEDDING),
    Row("target.lm.output_layer.bias", "final_logits_bias", "vocab", LeadingAxis()),
)


def attention(uer: str, hugging_face: str, names: tuple[str, ...] = _PROJECTIONS) -> tuple[Row, ...]:
    """The rows of query, key, value and output; `names` are Hugging Face's in this order.

    Query, key and value are (inner, hidden), the output is (hidden, inner).
    """
    ours = (*(f"{uer}.linear_layers.{number}" for number in range(3)), f"{uer}.final_linear")
    shapes = ("inner hidden",) * 3 + ("hidden inner",)
    return tuple(row for name, theirs, shape in zip(ours, names, shapes, strict=True)
                 for row in linear(name, f"{hugging_face}.{theirs}", shape))


def _layer(norms: tuple[str, ...]) -> tuple[Row, ...]:
    context = attention("context_attn", "encoder_attn") if len(norms) == 3 else ()
    return (*attention("self_attn", "self_attn"), *context,
            *linear("feed_forward.linear_1", "fc1", "feedforward hidden"),
            *linear("feed_forward.linear_2", "fc2", "hidden feedforward"),
            *(row for number, norm in enumerate(norms, start=1) for row in layer_norm(f"layer_norm_{number}", norm)))


STACKS = {
    "encoder": Stack("encoder.transformer.{n}.", "model.encoder.layers.{n}.", _layer(_ENCODER_NORMS)),
    "decoder": Stack("decoder.transformer_decoder.{n}.", "model.decoder.layers.{n}.", _layer(_DECODER_NORMS),
                     size="decoder_layers"),
}
UER_PREFIXES = ("embedding.", "tgt_embedding.", "encoder.", "decoder.")

_NAMES = NameTable(
    body=(
        *WORDS,
        Row("embedding.pos.embedding.weight", "model.encoder.embed_positions.weight", "positions hidden", AddRows(2)),
        Row("tgt_embedding.pos.embedding.weight", "model.decoder.embed_positions.weight", "positions hidden",
            AddRows(2)),
        *layer_norm("embedding.layer_norm", "model.encoder.layernorm_embedding"),
        *layer_norm("tgt_embedding.layer_norm", "model.decoder.layernorm_embedding"),
    ),
    stacks=STACKS,
    heads={"lm": OUTPUT},
    prefixes={"uer": UER_PREFIXES, "hugging_face": ("model.",)},
    duplicates={"model.encoder.embed_tokens.weight": "model.shared.weight"},
    base_prefix="model.",
)


def settings(name: str, *own: Setting) -> tuple[Setting, ...]:
    """The rows of BART and Pegasus, and those that one of them has alone."""
    names = activations("gelu_new", f"Hugging Face's {name}")
    return (
        Setting("", "activation_dropout", must=0.0, only="write"),
        Setting("hidden_act", "activation_function", names.to, names.back, default="gelu"),
        Setting("dropout", "attention_dropout", only="write"),
        Setting("cls_id", "bos_token_id", only="write"),
        Setting("hidden_size", "d_model", size="hidden"),
        Setting("emb_size", size="hidden"),
        Setting("heads_num", "decoder_attention_heads", back=whole_number),
        Setting("feedforward_size", "decoder_ffn_dim", size="feedforward"),
        Setting("decoder_layers_num", "decoder_layers", size="decoder_layers"),
        Setting("cls_id", "decoder_start_token_id", only="write"),
        Setting("dropout", "dropout", back=probability),
        Setting("heads_num", "encoder_attention_heads", back=whole_number),
        Setting("feedforward_size", "encoder_ffn_dim", size="feedforward"),
        Setting("layers_num", "encoder_layers", size="layers"),
        Setting("sep_id", "eos_token_id", only="write"),
        Setting("sep_id", "forced_eos_token_id", only="write"),
        Setting("", "init_std", must=0.02, only="write"),
        Setting("", "is_encoder_decoder", must=True),
        Setting("layers_num", "num_hidden_layers", size="layers"),
        Setting("pad_id", "pad_token_id", only="write"),
        Setting("tie_weights", "tie_word_embeddings", only="write"),
        Setting("", "use_cache", must=True, only="write"),
        Setting("vocab_size", "vocab_size", size="vocab"),
        *own,
        *uer_only(mask="fully_visible", attention_head_size=None, decoder="transformer", share_embedding=True,
                  has_lmtarget_bias=True),
    )


BART = Architecture(
    name="bart",
    title="BART",
    names=_NAMES,
    settings=settings(
        "BART", Setting("max_seq_length", "max_position_embeddings", size="positions"),
        Setting("", "scale_embedding", must=False),
        Setting("layernorm_positioning", must="post"), Setting("remove_embedding_layernorm", must=False),
        Setting("embedding", must=("word", "pos")), Setting("tgt_embedding", must=("word", "pos"))),
    classes={"lm": "BartForConditionalGeneration"},
    outputs={"lm": {"lm": "logits"}},
    inputs=inputs_with_target,
    generation={"bos_token_id": "cls_id", "decoder_start_token_id": "cls_id", "eos_token_id": "sep_id",
                "forced_eos_token_id": "sep_id", "pad_token_id": "pad_id"},
    layernorm_eps=1e-5,
)
