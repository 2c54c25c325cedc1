"""BLOOM (Le Scao et al., 2022): a causal encoder whose scores fall with the distance (ALiBi), a norm after embedding.

Hugging Face keeps query, key and value of each head side by side.
"""

from torch import Tensor

from uer.config import ModelConfig
from uer.convert.architectures.base import Architecture
from uer.convert.architectures.gpt2 import QUERY_KEY_VALUE, inputs
from uer.convert.changes import Fused, HeadByHead
from uer.convert.names import WORD_EMBEDDING, NameTable, Row, Stack, layer_norm, linear
from uer.convert.settings import Setting, epsilon, from_epsilon, probability, uer_only, whole_number
from uer.errors import UserError

_NAMES = NameTable(
    body=(
        Row(WORD_EMBEDDING, "transformer.word_embeddings.weight", "vocab hidden"),
        *layer_norm("embedding.layer_norm", "transformer.word_embeddings_layernorm"),
        *layer_norm("encoder.layer_norm", "transformer.ln_f"),
    ),
    stacks={"encoder": Stack("encoder.transformer.{n}.", "transformer.h.{n}.", (
        *layer_norm("layer_norm_1", "input_layernorm"),
        *linear(QUERY_KEY_VALUE, "self_attention.query_key_value", "hidden hidden", Fused(3), Fused(3)),
        *linear("self_attn.final_linear", "self_attention.dense", "hidden hidden"),
        *layer_norm("layer_norm_2", "post_attention_layernorm"),
        *linear("feed_forward.linear_1", "mlp.dense_h_to_4h", "feedforward hidden"),
        *linear("feed_forward.linear_2", "mlp.dense_4h_to_h", "hidden feedforward"),
    ))},
    heads={"lm": (Row("target.lm.output_layer.weight", "lm_head.weight", "vocab hidden", tied_to=WORD_EMBEDDING),)},
    prefixes={"uer": ("embedding.", "encoder."), "hugging_face": ("transformer.",)},
    base_prefix="transformer.",
)

_SETTINGS = (
    Setting("", "apply_residual_connection_post_layernorm", must=False),
    Setting("dropout", "attention_dropout", only="write"),
    Setting("cls_id", "bos_token_id", only="write"),
    Setting("sep_id", "eos_token_id", only="write"),
    Setting("dropout", "hidden_dropout", back=probability),
    Setting("hidden_size", "hidden_size", size="hidden"),
    Setting("emb_size", size="hidden"),
    Setting("", "initializer_range", must=0.02, only="write"),
    Setting("layernorm_eps", "layer_norm_epsilon", epsilon, from_epsilon, default=1e-5),
    Setting("heads_num", "n_head", back=whole_number),
    Setting("heads_num", "num_attention_heads", back=whole_number, only="read"),
    Setting("layers_num", "n_layer", size="layers"),
    Setting("pad_id", "pad_token_id", only="write"),
    Setting("max_seq_length", "seq_length", back=whole_number),
    Setting("tie_weights", "tie_word_embeddings", only="write"),
    Setting("", "use_cache", must=True, only="write"),
    Setting("vocab_size", "vocab_size", size="vocab"),
    Setting("feedforward_size", size="feedforward"),
    *uer_only(mask="causal", layernorm_positioning="pre", remove_embedding_layernorm=False, embedding=("word",),
              has_lmtarget_bias=False, hidden_act="gelu_fast", alibi_position_embedding=True),
)


def _require_width(config: ModelConfig) -> dict[str, Tensor]:
    """
    Raises:
        UserError: the feed-forward layers are not four times as wide as the hidden states, as Hugging Face's are.
    """
    if config.feedforward_size != 4 * config.hidden_size:
        raise UserError(f"feedforward_size is {config.feedforward_size}; Hugging Face's BLOOM has 4 * hidden_size, "
                        f"{4 * config.hidden_size}")
    return {}


BLOOM = Architecture(
    name="bloom",
    title="BLOOM",
    names=_NAMES,
    settings=_SETTINGS,
    classes={"lm": "BloomForCausalLM"},
    outputs={"lm": {"lm": "logits"}},
    inputs=inputs,
    generation={"bos_token_id": "cls_id", "eos_token_id": "sep_id", "pad_token_id": "pad_id"},
    computed=_require_width,
    by_head={f"self_attention.query_key_value.{part}": HeadByHead for part in ("weight", "bias")},
    tokenizers=("bert", "bpe"),
)
