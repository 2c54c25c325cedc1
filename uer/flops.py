"""Sizes and costs of a model, by formula: no model is built."""

from uer.config import ModelConfig

PREDICTED_SHARE = 0.15
FORWARD_SHARE = 1 / 3
"""Of the operations of training: 2 of a weight's 6, and as much of attention's."""

# Dense bf16/fp16 operations a second, by a part of the name CUDA gives the device.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "A800": 312e12, "H800": 989e12, "L40": 181e12,
              "RTX 4090": 165e12, "RTX 3090": 71e12, "A10": 125e12, "L4": 121e12, "V100": 125e12, "T4": 65e12}


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
