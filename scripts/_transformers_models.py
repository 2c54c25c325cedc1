"""transformers' models of the sizes that ours have, the other side of benchmarks. Not a command.

transformers is imported when a model is made.
"""

from typing import Any

from torch import nn

from uer.config import ModelConfig
from uer.convert import ARCHITECTURES
from uer.convert.names import from_uer
from uer.errors import UserError

PAD = 0


def new_model(family: str, config: ModelConfig, vocab_size: int) -> Any:
    """transformers' model of a family with random weights: its own language model, with scaled-dot-product attention.

    Args:
        family: bert, gpt2, t5 or bart.
        config: the sizes.
        vocab_size: V.

    Raises:
        UserError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"transformers cannot be imported ({error}); --against none does without it") from None
    config_class, model_class, settings = {"bert": _bert, "gpt2": _gpt2, "t5": _t5, "bart": _bart}[family](config)
    return getattr(transformers, model_class)(getattr(transformers, config_class)(
        vocab_size=vocab_size, attn_implementation="sdpa", **settings))


def _bert(config: ModelConfig) -> tuple[str, str, dict[str, Any]]:
    return "BertConfig", "BertForMaskedLM", {
        "hidden_size": config.hidden_size, "num_hidden_layers": config.layers_num,
        "num_attention_heads": config.heads_num, "intermediate_size": config.feedforward_size,
        "max_position_embeddings": config.max_seq_length}


def _gpt2(config: ModelConfig) -> tuple[str, str, dict[str, Any]]:
    return "GPT2Config", "GPT2LMHeadModel", {
        "n_embd": config.hidden_size, "n_layer": config.layers_num, "n_head": config.heads_num,
        "n_inner": config.feedforward_size, "n_positions": config.max_seq_length, "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout, "resid_pdrop": config.dropout, "layer_norm_epsilon": 1e-12,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": PAD}


def _t5(config: ModelConfig) -> tuple[str, str, dict[str, Any]]:
    """`tie_word_embeddings` False leaves out the factor before the output layer, which UER's T5 does not have either;
    the weights are tied in any case."""
    return "T5Config", "T5ForConditionalGeneration", {
        "d_model": config.hidden_size, "num_layers": config.layers_num, "num_decoder_layers": config.decoder_layers_num,
        "num_heads": config.heads_num, "d_kv": config.hidden_size // config.heads_num,
        "d_ff": config.feedforward_size, "dropout_rate": config.dropout, "feed_forward_proj": "relu",
        "tie_word_embeddings": False, "pad_token_id": PAD, "eos_token_id": None}


def _bart(config: ModelConfig) -> tuple[str, str, dict[str, Any]]:
    return "BartConfig", "BartForConditionalGeneration", {
        "d_model": config.hidden_size, "encoder_layers": config.layers_num, "decoder_layers": config.decoder_layers_num,
        "encoder_attention_heads": config.heads_num, "decoder_attention_heads": config.heads_num,
        "encoder_ffn_dim": config.feedforward_size, "decoder_ffn_dim": config.feedforward_size,
        "max_position_embeddings": config.max_seq_length, "dropout": config.dropout,
        "attention_dropout": config.dropout, "activation_function": "gelu", "pad_token_id": PAD,
        "bos_token_id": None, "eos_token_id": None, "forced_eos_token_id": None}


def copy_weights(family: str, ours: nn.Module, theirs: nn.Module) -> None:
    """Give transformers' model, a gpt2 or t5, the weights of ours.

    Raises:
        RuntimeError: the names or the shapes do not fit.
    """
    weights = dict(ours.state_dict())
    renamed = from_uer(weights, ARCHITECTURES[family].names, "lm", "the model").weights
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    tied = {"lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    if unexpected or not tied.issuperset(missing):
        raise RuntimeError(f"missing {missing}, unexpected {unexpected}")
