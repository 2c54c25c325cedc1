"""Qwen2 (Yang et al., 2024) and Qwen3 (Yang et al., 2025): LLaMA's layers.

Qwen2's queries, keys and values have biases; Qwen3 normalises each head of queries and keys instead.
"""

from dataclasses import replace

from uer.convert.architectures.llama import BY_HEAD, LAYER, LLAMA, names, settings
from uer.convert.changes import Halves
from uer.convert.names import Row
from uer.convert.settings import Setting

_BIASES = (
    Row("self_attn.linear_layers.0.bias", "self_attn.q_proj.bias", "inner"),
    Row("self_attn.linear_layers.1.bias", "self_attn.k_proj.bias", "kv"),
    Row("self_attn.linear_layers.2.bias", "self_attn.v_proj.bias", "kv"),
)
_NORMS = (
    Row("self_attn.query_layer_norm.weight", "self_attn.q_norm.weight", "head"),
    Row("self_attn.key_layer_norm.weight", "self_attn.k_norm.weight", "head"),
)
_NO_WINDOW = Setting("", "use_sliding_window", must=False)

QWEN2 = replace(
    LLAMA,
    name="qwen2",
    title="Qwen2",
    names=names((*LAYER, *_BIASES)),
    settings=settings(_NO_WINDOW, Setting("query_key_value_bias", must=True)),
    classes={"lm": "Qwen2ForCausalLM"},
    tokenizers=("bert", "bpe", "qwen"),
    only_tokenizer="qwen",  # in transformers 5
    ids_tell_padding=(),
    by_head={**BY_HEAD, "self_attn.q_proj.bias": Halves, "self_attn.k_proj.bias": Halves},
)
QWEN3 = replace(
    LLAMA,
    name="qwen3",
    title="Qwen3",
    names=names((*LAYER, *_NORMS)),
    settings=settings(_NO_WINDOW, Setting("", "attention_bias", must=False),
                      Setting("query_key_layernorm", must=True), head_dim=128),
    classes={"lm": "Qwen3ForCausalLM"},
    tokenizers=("bert", "bpe", "qwen"),
    ids_tell_padding=(),
    by_head={**BY_HEAD, "self_attn.q_norm.weight": Halves, "self_attn.k_norm.weight": Halves},
)
