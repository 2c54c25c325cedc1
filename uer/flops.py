"""Sizes and costs of a model, by formula: no model is built."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uer.config import ModelConfig

if TYPE_CHECKING:
    import torch

PREDICTED_SHARE = 0.15
FORWARD_SHARE = 1 / 3
"""Of the operations of training: 2 of a weight's 6, and as much of attention's."""


@dataclass(frozen=True)
class Gpu:
    """What a GPU is sold as.

    Attributes:
        half: dense bf16 or fp16 operations a second, summed in fp32.
        single: those of fp32 matrix products, in TF32 where the GPU has it.
        memory_gib: the smallest that is sold under the name.
        bf16: whether it computes in bf16; --precision auto takes fp32 where it does not.
    """

    half: float
    single: float
    memory_gib: float
    bf16: bool = True

    def peak_flops(self, precision: str) -> float:
        """Operations a second in fp32, bf16 or fp16."""
        return self.single if precision == "fp32" else self.half


# By a word of the name that CUDA gives the device.
GPUS = {
    "H200": Gpu(989e12, 495e12, 141), "H100": Gpu(989e12, 495e12, 80), "H800": Gpu(989e12, 495e12, 80),
    "H20": Gpu(148e12, 74e12, 96), "A100": Gpu(312e12, 156e12, 40), "A800": Gpu(312e12, 156e12, 80),
    "A40": Gpu(150e12, 75e12, 48), "A30": Gpu(165e12, 82e12, 24), "A10": Gpu(125e12, 62.5e12, 24),
    "L40S": Gpu(362e12, 183e12, 48), "L40": Gpu(181e12, 90.5e12, 48), "L4": Gpu(121e12, 60e12, 24),
    "RTX 4090": Gpu(165e12, 82.6e12, 24), "RTX 3090": Gpu(71e12, 35.6e12, 24),
    "V100": Gpu(125e12, 15.7e12, 16, bf16=False), "T4": Gpu(65e12, 8.1e12, 16, bf16=False)}


def known_gpu(name: str) -> str | None:
    """The key of `GPUS` that is a word of a device's name: "NVIDIA A100-SXM4-80GB" -> "A100"; None where there is none.

    >>> known_gpu("NVIDIA RTX A1000"), known_gpu("NVIDIA L40S")
    (None, 'L40S')
    """
    return next((known for known in GPUS if re.search(rf"(?<!\w){known}(?!\w)", name, re.IGNORECASE)), None)


def peak_flops(device: "torch.device", precision: str) -> float:
    """Dense operations a second of a known GPU in fp32, bf16 or fp16; 0 for other devices."""
    if device.type != "cuda":
        return 0.0
    import torch

    known = known_gpu(torch.cuda.get_device_name(device))
    return GPUS[known].peak_flops(precision) if known else 0.0


def flops_per_token(config: ModelConfig, vocab_size: int, seq_length: int) -> float:
    """Floating-point operations of training on one token slot, forward and backward, with an MLM head on 15% of them.

    6 * 12 H^2 L + 12 L H S + 0.15 * 6 (H^2 + H V), where 12 H^2 stands for a layer's 4 H^2 + 2 H F weights (3 H F
    with a gated feed-forward): every weight costs 2 operations forward and 4 backward; attention costs 12 H S a layer.
    """
    hidden, layers = config.hidden_size, config.layers_num
    weights = layers * _layer_matrices(config)
    head = hidden * config.emb_size + config.emb_size * vocab_size
    if config.factorized_embedding_parameterization:
        weights += config.emb_size * hidden
    return 6.0 * weights + 12.0 * layers * hidden * seq_length + PREDICTED_SHARE * 6.0 * head


def _layer_matrices(config: ModelConfig) -> int:
    matrices = 3 if config.feed_forward == "gated" else 2
    return 4 * config.hidden_size ** 2 + matrices * config.hidden_size * config.feedforward_size


def parameter_count(config: ModelConfig, vocab_size: int) -> int:
    """How many numbers a transformer encoder with an MLM head trains; a tied weight counts once.

    >>> parameter_count(ModelConfig(embedding=("word", "pos", "seg"), tie_weights=True), 21128)  # BERT-base
    102291080
    """
    emb, hidden, feedforward = config.emb_size, config.hidden_size, config.feedforward_size
    biased = not config.remove_transformer_bias
    norm = 1 if config.layernorm == "t5" else 2
    rows = {"word": vocab_size, "pos": config.max_seq_length, "seg": 3}
    embedding = sum(rows.get(name, 0) for name in config.embedding) * emb
    embedding += 0 if config.remove_embedding_layernorm else 2 * emb
    inner = 2 if config.feed_forward == "gated" else 1
    layer = _layer_matrices(config) + biased * (5 * hidden + inner * feedforward) + 2 * norm * hidden
    encoder = layer * (1 if config.parameter_sharing else config.layers_num)
    if config.factorized_embedding_parameterization:
        encoder += (emb + 1) * hidden
    if config.layernorm_positioning == "pre":
        encoder += norm * hidden
    if config.relative_position_embedding:
        encoder += config.relative_attention_buckets_num * config.heads_num
    head = (hidden + 1) * emb + 2 * emb + vocab_size
    return embedding + encoder + head + (0 if config.tie_weights else vocab_size * emb)


def activation_bytes(config: ModelConfig, tokens: int, vocab_size: int) -> int:
    """An estimate of what `tokens` slots keep for the backward pass in fp32, attention scores not materialised.

    A layer keeps about 8 vectors of the hidden size and 2 of the feed-forward's; the head keeps the logits of 15% of
    the slots and their gradient.
    """
    layer = 8 * config.hidden_size + 2 * config.feedforward_size
    head = PREDICTED_SHARE * (2 * vocab_size + 3 * config.emb_size)
    return round(4 * tokens * (layer * config.layers_num + head))


def answer_flops_per_token(config: ModelConfig, vocab_size: int, seq_length: int) -> float:
    """Floating-point operations of a teacher's answer for one token slot: a forward pass with the MLM head."""
    return FORWARD_SHARE * flops_per_token(config, vocab_size, seq_length)


def answer_bytes(config: ModelConfig, vocab_size: int, tokens: int) -> int:
    """Memory that a teacher takes: its weights in fp32, and three matrices of the logits of `tokens` slots."""
    return 4 * parameter_count(config, vocab_size) + round(12 * PREDICTED_SHARE * tokens * vocab_size)
