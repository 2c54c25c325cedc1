"""ModernBERT (Warner et al., 2024): rotary positions, local attention in most layers, gated feed-forward, no biases.

The heads: `mlm` (masked-language model) and the fine-tuned ones, each with the same layers before its last. Hugging
Face keeps query, key and value of a layer as one, and so the two layers that widen the hidden states; its rotary
positions order the rows of queries and keys otherwise than UER's (`uer.convert.changes.Halves`).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from uer.convert.architectures.base import Architecture
from uer.convert.architectures.gpt2 import QUERY_KEY_VALUE, inputs
from uer.convert.architectures.llama import base_of
from uer.convert.changes import Fused, Halves
from uer.convert.names import WORD_EMBEDDING, NameTable, Row, Stack, linear
from uer.convert.settings import Names, Setting, activations, epsilon, from_epsilon, probability, uer_only, whole_number

_HEAD = (Row("output_layer_1.weight", "head.dense.weight", "hidden hidden"),
         Row("output_layer_norm.gamma", "head.norm.weight", "hidden"))

_NAMES = NameTable(
    body=(
        Row(WORD_EMBEDDING, "model.embeddings.tok_embeddings.weight", "vocab hidden"),
        Row("embedding.layer_norm.gamma", "model.embeddings.norm.weight", "hidden"),
        Row("encoder.layer_norm.gamma", "model.final_norm.weight", "hidden"),
    ),
    stacks={"encoder": Stack("encoder.transformer.{n}.", "model.layers.{n}.", (
        Row(tuple(f"{name}.weight" for name in QUERY_KEY_VALUE), "attn.Wqkv.weight", "hidden hidden", Fused(3)),
        Row("self_attn.final_linear.weight", "attn.Wo.weight", "hidden hidden"),
        Row("layer_norm_2.gamma", "mlp_norm.weight", "hidden"),
        Row(("feed_forward.linear_gate.weight", "feed_forward.linear_1.weight"), "mlp.Wi.weight", "feedforward hidden",
            Fused(2)),
        Row("feed_forward.linear_2.weight", "mlp.Wo.weight", "hidden feedforward"),
    ), later=(Row("layer_norm_1.gamma", "attn_norm.weight", "hidden"),))},
    heads={
        "mlm": (Row("target.mlm.linear_1.weight", "head.dense.weight", "hidden hidden"),
                Row("target.mlm.layer_norm.gamma", "head.norm.weight", "hidden"),
                Row("target.mlm.linear_2.weight", "decoder.weight", "vocab hidden", tied_to=WORD_EMBEDDING),
                Row("target.mlm.linear_2.bias", "decoder.bias", "vocab")),
        "text_classification": (*_HEAD, *linear("output_layer_2", "classifier", "labels hidden")),
        "token_classification": (*_HEAD, *linear("output_layer", "classifier", "labels hidden")),
        "extractive_qa": (*_HEAD, *linear("output_layer", "classifier", "two hidden")),
    },
    fixed={"two": 2},
    prefixes={"uer": ("embedding.", "encoder."), "hugging_face": ("model.",)},
    buffers=("inv_freq",),
    base_prefix="model.",
)

_ACTIVATIONS = activations("gelu_pytorch_tanh")
_POOLING = Names({"first": ("cls",), "mean": ("mean",)}, "Hugging Face's ModernBERT")


def _at_least_one(value: int) -> int:
    """A window, or how often a layer is global.

    Raises:
        ValueError: it is 0.
    """
    if value < 1:
        raise ValueError("is 0; in Hugging Face's ModernBERT the first layer is global and others are local")
    return value


def _every(kinds: Any) -> int:
    """How often a layer is global: ["full_attention", "sliding_attention", "full_attention", ...] -> 2. Where the first
    alone is, as often as usual, or more rarely in a deeper model.

    Raises:
        ValueError: the layers do not follow such a pattern.
    """
    is_global = [kind == "full_attention" for kind in kinds] if isinstance(kinds, list) else []
    every = next((number for number, one in enumerate(is_global) if one and number), max(3, len(is_global)))
    if not is_global or is_global != [number % every == 0 for number in range(len(is_global))]:
        raise ValueError(f"is {kinds}; in UER, every so many-th layer is global, beginning with the first")
    return every


def _base_in(kind: str, value: Any) -> float:
    """The base of rotary positions in the layers of a kind."""
    if not isinstance(value, Mapping) or not isinstance(value.get(kind), Mapping):
        raise ValueError(f"does not say the base of {kind}")
    return base_of(value[kind])


_SETTINGS = (
    Setting("", "attention_bias", must=False),
    Setting("dropout", "attention_dropout", back=probability),
    Setting("cls_id", "bos_token_id", only="write"),
    Setting("hidden_act", "classifier_activation", _ACTIVATIONS.to, _ACTIVATIONS.back, default="gelu"),
    Setting("", "classifier_bias", must=False),
    Setting("dropout", "classifier_dropout", only="write"),
    Setting("pooling", "classifier_pooling", _POOLING.to, _POOLING.back, default="cls", heads=("text_classification",)),
    Setting("pooling", "classifier_pooling", lambda value: "mean" if value == "mean" else "cls", _POOLING.back,
            default="cls", heads=("mlm", "token_classification", "extractive_qa")),  # for a classifier made of it
    Setting("cls_id", "cls_token_id", only="write"),
    Setting("", "decoder_bias", must=True),
    Setting("dropout", "embedding_dropout", only="write"),
    Setting("sep_id", "eos_token_id", only="write"),
    Setting("global_attention_every", "global_attn_every_n_layers", _at_least_one, whole_number),
    Setting("global_attention_every", "layer_types", back=_every, only="read"),
    Setting("rotary_base", "global_rope_theta", back=base_of),
    Setting("rotary_base", "rope_parameters", back=partial(_base_in, "full_attention"), only="read"),
    Setting("hidden_act", "hidden_activation", _ACTIVATIONS.to, _ACTIVATIONS.back, default="gelu"),
    Setting("hidden_size", "hidden_size", size="hidden"),
    Setting("emb_size", size="hidden"),
    Setting("", "initializer_range", must=0.02, only="write"),
    Setting("feedforward_size", "intermediate_size", size="feedforward"),
    Setting("attention_window", "local_attention", _at_least_one, whole_number),
    Setting("local_base", "local_rope_theta", only="write"),
    Setting("local_rotary_base", "local_rope_theta", back=base_of, only="read"),
    Setting("local_rotary_base", "rope_parameters", back=partial(_base_in, "sliding_attention"), only="read"),
    Setting("max_seq_length", "max_position_embeddings", back=whole_number),
    Setting("", "mlp_bias", must=False),
    Setting("dropout", "mlp_dropout", only="write"),
    Setting("", "norm_bias", must=False),
    Setting("layernorm_eps", "norm_eps", epsilon, from_epsilon, default=1e-5),
    Setting("heads_num", "num_attention_heads", back=whole_number),
    Setting("layers_num", "num_hidden_layers", size="layers"),
    Setting("pad_id", "pad_token_id", only="write"),
    Setting("sep_id", "sep_token_id", only="write"),
    Setting("tie_weights", "tie_word_embeddings", only="write"),
    Setting("vocab_size", "vocab_size", size="vocab"),
    *uer_only(mask="fully_visible", layernorm_positioning="pre", feed_forward="gated", remove_transformer_bias=True,
              remove_embedding_layernorm=False, embedding=("word",), rotary_position_embedding=True,
              remove_layernorm_bias=True, remove_first_layernorm=True, prediction_head="modernbert"),
)

MODERNBERT = Architecture(
    name="modernbert",
    title="ModernBERT",
    names=_NAMES,
    settings=_SETTINGS,
    classes={"mlm": "ModernBertForMaskedLM", "text_classification": "ModernBertForSequenceClassification",
             "token_classification": "ModernBertForTokenClassification",
             "extractive_qa": "ModernBertForQuestionAnswering"},
    outputs={"mlm": {"mlm": "logits"}},
    inputs=inputs,
    pooler=False,
    defaults={"rotary_base": 160000.0, "local_rotary_base": 10000.0, "attention_window": 128,
              "global_attention_every": 3, "layernorm_eps": 1e-5},
    by_head={"attn.Wqkv.weight": partial(Halves, fused=True)},
)
