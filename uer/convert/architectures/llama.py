"""LLaMA and Llama 2 (Touvron et al., 2023): a causal encoder with rotary positions, RMSNorm and gated feed-forward.

UER's names are those of TencentPretrain's checkpoints, whose rotary positions turn neighbouring features together;
Hugging Face's turn features half a head apart, so the rows of queries and keys have another order there. Its classifier
takes the last token that is no padding, by one linear layer: UER's with `pooling` last and a linear `prediction_head`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from uer.convert.architectures.base import Architecture
from uer.convert.architectures.gpt2 import inputs
from uer.convert.changes import Change, Halves
from uer.convert.names import WORD_EMBEDDING, NameTable, Row, Stack
from uer.convert.settings import Setting, activations, epsilon, from_epsilon, probability, uer_only, whole_number

_ACTIVATIONS = activations("gelu_pytorch_tanh")

LAYER = (
    Row("layer_norm_1.weight", "input_layernorm.weight", "hidden"),
    Row("self_attn.linear_layers.0.weight", "self_attn.q_proj.weight", "inner hidden"),
    Row("self_attn.linear_layers.1.weight", "self_attn.k_proj.weight", "kv hidden"),
    Row("self_attn.linear_layers.2.weight", "self_attn.v_proj.weight", "kv hidden"),
    Row("self_attn.final_linear.weight", "self_attn.o_proj.weight", "hidden inner"),
    Row("layer_norm_2.weight", "post_attention_layernorm.weight", "hidden"),
    Row("feed_forward.linear_gate.weight", "mlp.gate_proj.weight", "feedforward hidden"),
    Row("feed_forward.linear_1.weight", "mlp.up_proj.weight", "feedforward hidden"),
    Row("feed_forward.linear_2.weight", "mlp.down_proj.weight", "hidden feedforward"),
)
BY_HEAD: Mapping[str, Callable[[int], Change]] = {"self_attn.q_proj.weight": Halves, "self_attn.k_proj.weight": Halves}


def base_of(value: Any) -> float:
    """The base of rotary positions, in config.json as a number or with other settings in a dictionary.

    Raises:
        ValueError: angles are scaled, or only a part of a head is turned.
    """
    if isinstance(value, Mapping):
        kind, part = value.get("rope_type", "default"), value.get("partial_rotary_factor") or 1.0
        if kind != "default" or part != 1.0:
            raise ValueError(f"is {kind} with the factor {part}; UER's rotary positions are not scaled")
        value = value.get("rope_theta", 10000.0)
    if type(value) not in (int, float) or not value > 1:
        raise ValueError(f"must be above 1, not {value}")
    return float(value)


def names(layer: tuple[Row, ...], **heads: tuple[Row, ...]) -> NameTable:
    """The table of a model with these layers, and heads besides that of a language model."""
    return NameTable(
        body=(Row(WORD_EMBEDDING, "model.embed_tokens.weight", "vocab hidden"),
              Row("encoder.layer_norm.weight", "model.norm.weight", "hidden")),
        stacks={"encoder": Stack("encoder.transformer.{n}.", "model.layers.{n}.", layer)},
        heads={"lm": (Row("target.lm.output_layer.weight", "lm_head.weight", "vocab hidden", tied_to=WORD_EMBEDDING),),
               **heads},
        prefixes={"uer": ("embedding.", "encoder."), "hugging_face": ("model.",)},
        buffers=(".rotary_emb.inv_freq",),
        base_prefix="model.",
    )


def settings(*own: Setting, head_dim: int | None = None) -> tuple[Setting, ...]:
    """The rows of all architectures with these layers, and one's own.

    Args:
        head_dim: Hugging Face's size of a head where config.json does not say it.
    """
    return (
        Setting("dropout", "attention_dropout", back=probability),
        Setting("cls_id", "bos_token_id", only="write"),
        Setting("sep_id", "eos_token_id", only="write"),
        Setting("head_size", "head_dim", only="write"),
        Setting("attention_head_size", "head_dim", back=whole_number, only="read", default=head_dim),
        Setting("hidden_act", "hidden_act", _ACTIVATIONS.to, _ACTIVATIONS.back, default="silu"),
        Setting("hidden_size", "hidden_size", size="hidden"),
        Setting("emb_size", size="hidden"),
        Setting("", "initializer_range", must=0.02, only="write"),
        Setting("feedforward_size", "intermediate_size", size="feedforward"),
        Setting("max_seq_length", "max_position_embeddings", back=whole_number),
        Setting("heads_num", "num_attention_heads", back=whole_number),
        Setting("layers_num", "num_hidden_layers", size="layers"),
        Setting("kv_heads", "num_key_value_heads", only="write"),
        Setting("local_kv_heads_num", only="write"),
        Setting("pad_id", "pad_token_id", only="write"),
        Setting("layernorm_eps", "rms_norm_eps", partial(epsilon, usual=1e-6), partial(from_epsilon, usual=1e-6)),
        Setting("rotary_base", "rope_theta", back=base_of),
        Setting("rotary_base", "rope_parameters", back=base_of, only="read"),
        Setting("", "rope_scaling", must=None, only="read"),
        Setting("tie_weights", "tie_word_embeddings", only="write"),
        Setting("", "use_cache", must=True, only="write"),
        Setting("vocab_size", "vocab_size", size="vocab"),
        *own,
        *uer_only(mask="causal", layernorm_positioning="pre", feed_forward="gated", layernorm="rms",
                  remove_transformer_bias=True, remove_embedding_layernorm=True, embedding=("word",),
                  has_lmtarget_bias=False, rotary_position_embedding=True),
    )


LLAMA = Architecture(
    name="llama",
    title="LLaMA",
    names=names(LAYER, text_classification=(Row("output_layer_2.weight", "score.weight", "labels hidden"),)),
    settings=settings(Setting("", "attention_bias", must=False), Setting("", "mlp_bias", must=False),
                      Setting("pooling", must="last", heads=("text_classification",)),
                      Setting("prediction_head", must="linear", heads=("text_classification",))),
    classes={"lm": "LlamaForCausalLM", "text_classification": "LlamaForSequenceClassification"},
    outputs={"lm": {"lm": "logits"}},
    inputs=inputs,
    generation={"bos_token_id": "cls_id", "eos_token_id": "sep_id", "pad_token_id": "pad_id"},
    defaults={"hidden_act": "silu"},
    by_head=BY_HEAD,
    tokenizers=("bert", "bpe"),
    ids_tell_padding=("text_classification",),
)
