"""T5 (Raffel et al., 2020) and T5 v1.1: no biases, RMSNorm before each sub-layer, a relative position bias.

T5 v1.1 has a gated feed-forward part and an output layer of its own. Both are Hugging Face's model_type "t5". There,
`tie_word_embeddings` says whether the hidden states are multiplied by hidden^-0.5 before the output layer, which UER
does not do: the export says false and stores the output layer; the import multiplies the output layer's weight instead.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from uer.convert.architectures.bart import UER_PREFIXES, attention
from uer.convert.architectures.base import Architecture, inputs_with_target
from uer.convert.names import TGT_WORD_EMBEDDING, WORD_EMBEDDING, NameTable, Row, Stack
from uer.convert.settings import Names, Setting, epsilon, from_epsilon, probability, uer_only, whole_number

_BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"
_ACTIVATIONS = Names({"relu": ("relu",), "gelu": ("gelu",), "gelu_fast": ("gelu_new",), "silu": ("silu",)},
                     "Hugging Face's T5")
_GATED_ACTIVATIONS = Names({"gelu_fast": ("gated-gelu", "gated-gelu_new"), "relu": ("gated-relu",),
                            "silu": ("gated-silu",)}, "Hugging Face's T5 v1.1")


def _layer(last: int, wide: Mapping[str, str]) -> tuple[Row, ...]:
    """A layer whose parts are numbered: 0 self-attention, (1 attention to the encoder,) `last` feed-forward.

    Args:
        last: 1 in the encoder, 2 in the decoder.
        wide: UER's name -> Hugging Face's name of each layer that widens the hidden states.
    """
    parts = (("self_attn", "layer.0.SelfAttention"), ("context_attn", "layer.1.EncDecAttention"))[:last]
    attentions = (row for ours, theirs in parts for row in attention(ours, theirs, ("q", "k", "v", "o")))
    dense = f"layer.{last}.DenseReluDense"
    return (*(row for row in attentions if row.hugging_face.endswith(".weight")),
            *(Row(f"feed_forward.{ours}.weight", f"{dense}.{theirs}.weight", "feedforward hidden")
              for ours, theirs in wide.items()),
            Row("feed_forward.linear_2.weight", f"{dense}.wo.weight", "hidden feedforward"),
            *(Row(f"layer_norm_{n + 1}.weight", f"layer.{n}.layer_norm.weight", "hidden") for n in range(last + 1)))


def _names(wide: Mapping[str, str]) -> NameTable:
    return NameTable(
        body=(Row(WORD_EMBEDDING, "shared.weight", "vocab hidden"),
              Row(TGT_WORD_EMBEDDING, "decoder.embed_tokens.weight", "vocab hidden", tied_to=WORD_EMBEDDING),
              Row("encoder.relative_pos_emb.relative_attention_bias.weight", f"encoder.block.0.{_BIAS}",
                  "buckets heads"),
              Row("decoder.self_pos_emb.relative_attention_bias.weight", f"decoder.block.0.{_BIAS}", "buckets heads"),
              Row("encoder.layer_norm.weight", "encoder.final_layer_norm.weight", "hidden"),
              Row("decoder.layer_norm.weight", "decoder.final_layer_norm.weight", "hidden")),
        stacks={"encoder": Stack("encoder.transformer.{n}.", "encoder.block.{n}.", _layer(1, wide)),
                "decoder": Stack("decoder.transformer_decoder.{n}.", "decoder.block.{n}.", _layer(2, wide),
                                 size="decoder_layers")},
        heads={"lm": (Row("target.lm.output_layer.weight", "lm_head.weight", "vocab hidden", tied_to=WORD_EMBEDDING),)},
        prefixes={"uer": UER_PREFIXES, "hugging_face": ("encoder.", "decoder.")},
        buffers=("EncDecAttention.relative_attention_bias.weight",),  # in old files; no model has read it
        duplicates={"encoder.embed_tokens.weight": "shared.weight"},
        stores_output_layer=True,
    )


def _settings(activations: Names, default: str, feed_forward: str) -> tuple[Setting, ...]:
    return (
        Setting("feedforward_size", "d_ff", size="feedforward"),
        Setting("head_size", "d_kv", size="head_size"),
        Setting("hidden_size", "d_model", size="hidden"),
        Setting("emb_size", size="hidden"),
        Setting("cls_id", "decoder_start_token_id", only="write"),
        Setting("dropout", "dropout_rate", back=probability),
        Setting("sep_id", "eos_token_id", only="write"),
        Setting("hidden_act", "feed_forward_proj", activations.to, activations.back, default=default),
        Setting("", "initializer_factor", must=1.0, only="write"),
        Setting("", "is_encoder_decoder", must=True),
        Setting("layernorm_eps", "layer_norm_epsilon", partial(epsilon, usual=1e-6), partial(from_epsilon, usual=1e-6)),
        Setting("max_seq_length", "n_positions", back=whole_number),
        Setting("decoder_layers_num", "num_decoder_layers", size="decoder_layers"),
        Setting("heads_num", "num_heads", size="heads"),
        Setting("layers_num", "num_layers", size="layers"),
        Setting("pad_id", "pad_token_id", only="write"),
        Setting("", "relative_attention_max_distance", must=128),
        Setting("relative_attention_buckets_num", "relative_attention_num_buckets", size="buckets"),
        Setting("", "tie_word_embeddings", must=False, only="write"),
        Setting("", "use_cache", must=True, only="write"),
        Setting("vocab_size", "vocab_size", size="vocab"),
        *uer_only(mask="fully_visible", layernorm_positioning="pre", feed_forward=feed_forward, layernorm="t5",
                  relative_position_embedding=True, remove_attention_scale=True, remove_transformer_bias=True,
                  remove_embedding_layernorm=True, decoder="transformer", share_embedding=True, embedding=("word",),
                  tgt_embedding=("word",), has_lmtarget_bias=False),
    )


def prepare(weights: Mapping[str, Tensor], content: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """Hugging Face's weights, the output layer's multiplied by hidden^-0.5 where its model multiplies hidden states.

    The product is float32 or float64: numbers of 16 bits would be rounded once more, and move the logits.
    """
    scales = content and content.get("scale_decoder_outputs", content.get("tie_word_embeddings") is not False)
    home = weights.get("lm_head.weight", weights.get("shared.weight"))
    if not scales or home is None or home.dim() != 2:
        return dict(weights)
    exact = home.to(torch.promote_types(home.dtype, torch.float32))
    return {**weights, "lm_head.weight": exact * home.shape[1] ** -0.5}


T5 = Architecture(
    name="t5",
    title="T5",
    names=_names({"linear_1": "wi"}),
    settings=_settings(_ACTIVATIONS, "relu", "dense"),
    classes={"lm": "T5ForConditionalGeneration"},
    outputs={"lm": {"lm": "logits"}},
    inputs=inputs_with_target,
    generation={"decoder_start_token_id": "cls_id", "eos_token_id": "sep_id", "pad_token_id": "pad_id"},
    defaults={"hidden_act": "relu"},
    prepare=prepare,
)
T5_V1_1 = replace(
    T5,
    title="T5 v1.1",
    names=_names({"linear_gate": "wi_0", "linear_1": "wi_1"}),
    settings=_settings(_GATED_ACTIVATIONS, "gated-gelu", "gated"),
    defaults={"hidden_act": "gelu_fast"},
    other_types=("mt5",),
)
