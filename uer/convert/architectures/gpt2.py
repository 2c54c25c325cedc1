"""GPT-2 (Radford et al., 2019): a causal encoder with the layer norm before each sub-layer.

Hugging Face keeps its linear layers transposed, and query, key and value of a layer as one.
"""

from torch import Tensor

from uer.convert.architectures.base import Architecture
from uer.convert.changes import TRANSPOSED, Chain, Fused
from uer.convert.names import WORD_EMBEDDING, NameTable, Row, Stack, layer_norm, linear
from uer.convert.settings import Setting, activations, epsilon, from_epsilon, probability, uer_only, whole_number

QUERY_KEY_VALUE = tuple(f"self_attn.linear_layers.{number}" for number in range(3))

_NAMES = NameTable(
    body=(
        Row(WORD_EMBEDDING, "transformer.wte.weight", "vocab hidden"),
        Row("embedding.pos.embedding.weight", "transformer.wpe.weight", "positions hidden"),
        *layer_norm("encoder.layer_norm", "transformer.ln_f"),
    ),
    stacks={"encoder": Stack("encoder.transformer.{n}.", "transformer.h.{n}.", (
        *layer_norm("layer_norm_1", "ln_1"),
        # three of (H, H) -> (3H, H) -> (H, 3H), and three of (H,) -> (3H,)
        *linear(QUERY_KEY_VALUE, "attn.c_attn", "hidden hidden", Chain((Fused(3), TRANSPOSED)), Fused(3)),
        *linear("self_attn.final_linear", "attn.c_proj", "hidden hidden", TRANSPOSED),
        *layer_norm("layer_norm_2", "ln_2"),
        *linear("feed_forward.linear_1", "mlp.c_fc", "feedforward hidden", TRANSPOSED),
        *linear("feed_forward.linear_2", "mlp.c_proj", "hidden feedforward", TRANSPOSED),
    ))},
    heads={"lm": (Row("target.lm.output_layer.weight", "lm_head.weight", "vocab hidden", tied_to=WORD_EMBEDDING),)},
    prefixes={"uer": ("embedding.", "encoder."), "hugging_face": ("transformer.",)},
    buffers=(".attn.bias", ".attn.masked_bias"),
    base_prefix="transformer.",
)

_ACTIVATIONS = activations("gelu_new", "Hugging Face's GPT-2")

_SETTINGS = (
    Setting("hidden_act", "activation_function", _ACTIVATIONS.to, _ACTIVATIONS.back, default="gelu_new"),
    Setting("dropout", "attn_pdrop", only="write"),
    Setting("cls_id", "bos_token_id", only="write"),
    Setting("dropout", "embd_pdrop", only="write"),
    Setting("sep_id", "eos_token_id", only="write"),
    Setting("", "initializer_range", must=0.02, only="write"),
    Setting("layernorm_eps", "layer_norm_epsilon", epsilon, from_epsilon, default=1e-5),
    Setting("hidden_size", "n_embd", size="hidden"),
    Setting("emb_size", size="hidden"),
    Setting("heads_num", "n_head", back=whole_number),
    Setting("feedforward_size", "n_inner", size="feedforward"),
    Setting("layers_num", "n_layer", size="layers"),
    Setting("max_seq_length", "n_positions", size="positions"),
    Setting("pad_id", "pad_token_id", only="write"),
    Setting("dropout", "resid_pdrop", back=probability),
    Setting("", "scale_attn_by_inverse_layer_idx", must=False),
    Setting("", "scale_attn_weights", must=True),
    Setting("tie_weights", "tie_word_embeddings", only="write"),
    Setting("", "use_cache", must=True, only="write"),
    Setting("vocab_size", "vocab_size", size="vocab"),
    Setting("", "add_cross_attention", must=False, only="read"),
    Setting("embedding", must=("word", "pos"), only="write"),
    *uer_only(mask="causal", layernorm_positioning="pre", remove_embedding_layernorm=True),
)


def inputs(src: Tensor, seg: Tensor) -> dict[str, Tensor]:
    """src, seg (B, S) -> the same for GPT2Model, which has no segments."""
    return {"input_ids": src, "attention_mask": (seg > 0).long()}


GPT2 = Architecture(
    name="gpt2",
    title="GPT-2",
    names=_NAMES,
    settings=_SETTINGS,
    classes={"lm": "GPT2LMHeadModel"},
    outputs={"lm": {"lm": "logits"}},
    inputs=inputs,
    generation={"bos_token_id": "cls_id", "eos_token_id": "sep_id", "pad_token_id": "pad_id"},
    defaults={"hidden_act": "gelu_fast"},
    tokenizers=("bert", "bpe"),
)
