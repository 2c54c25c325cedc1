"""BERT's names in both worlds, and its Hugging Face configuration.

The heads: `mlm` (masked-language model), `bert` (that and next-sentence prediction), and the fine-tuned ones.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from uer.config import ModelConfig
from uer.convert.names import NameTable, Row
from uer.errors import UserError

_MLM = (
    Row("target.mlm.linear_1.weight", "cls.predictions.transform.dense.weight", "hidden hidden"),
    Row("target.mlm.linear_1.bias", "cls.predictions.transform.dense.bias", "hidden"),
    Row("target.mlm.layer_norm.gamma", "cls.predictions.transform.LayerNorm.weight", "hidden"),
    Row("target.mlm.layer_norm.beta", "cls.predictions.transform.LayerNorm.bias", "hidden"),
    Row("target.mlm.linear_2.weight", "cls.predictions.decoder.weight", "vocab hidden",
        tied_to="embedding.word.embedding.weight"),
    Row("target.mlm.linear_2.bias", "cls.predictions.bias", "vocab"),
)
_NEXT_SENTENCE = (
    Row("target.sp.linear_1.weight", "bert.pooler.dense.weight", "hidden hidden"),
    Row("target.sp.linear_1.bias", "bert.pooler.dense.bias", "hidden"),
    Row("target.sp.linear_2.weight", "cls.seq_relationship.weight", "two hidden"),
    Row("target.sp.linear_2.bias", "cls.seq_relationship.bias", "two"),
)
_TEXT_CLASSIFICATION = (
    Row("output_layer_1.weight", "bert.pooler.dense.weight", "hidden hidden"),
    Row("output_layer_1.bias", "bert.pooler.dense.bias", "hidden"),
    Row("output_layer_2.weight", "classifier.weight", "labels hidden"),
    Row("output_layer_2.bias", "classifier.bias", "labels"),
)
_TOKEN_CLASSIFICATION = (
    Row("output_layer.weight", "classifier.weight", "labels hidden"),
    Row("output_layer.bias", "classifier.bias", "labels"),
)
_EXTRACTIVE_QA = (
    Row("output_layer.weight", "qa_outputs.weight", "two hidden"),
    Row("output_layer.bias", "qa_outputs.bias", "two"),
)

BERT = NameTable(
    body=(
        Row("embedding.word.embedding.weight", "bert.embeddings.word_embeddings.weight", "vocab hidden"),
        Row("embedding.pos.embedding.weight", "bert.embeddings.position_embeddings.weight", "positions hidden"),
        Row("embedding.seg.embedding.weight", "bert.embeddings.token_type_embeddings.weight", "segments hidden",
            padding_rows=1),
        Row("embedding.layer_norm.gamma", "bert.embeddings.LayerNorm.weight", "hidden"),
        Row("embedding.layer_norm.beta", "bert.embeddings.LayerNorm.bias", "hidden"),
    ),
    layer=tuple(
        Row(f"encoder.transformer.{{n}}.{uer}", f"bert.encoder.layer.{{n}}.{hugging_face}", shape)
        for uer, hugging_face, shape in (
            ("self_attn.linear_layers.0.weight", "attention.self.query.weight", "hidden hidden"),
            ("self_attn.linear_layers.0.bias", "attention.self.query.bias", "hidden"),
            ("self_attn.linear_layers.1.weight", "attention.self.key.weight", "hidden hidden"),
            ("self_attn.linear_layers.1.bias", "attention.self.key.bias", "hidden"),
            ("self_attn.linear_layers.2.weight", "attention.self.value.weight", "hidden hidden"),
            ("self_attn.linear_layers.2.bias", "attention.self.value.bias", "hidden"),
            ("self_attn.final_linear.weight", "attention.output.dense.weight", "hidden hidden"),
            ("self_attn.final_linear.bias", "attention.output.dense.bias", "hidden"),
            ("layer_norm_1.gamma", "attention.output.LayerNorm.weight", "hidden"),
            ("layer_norm_1.beta", "attention.output.LayerNorm.bias", "hidden"),
            ("feed_forward.linear_1.weight", "intermediate.dense.weight", "feedforward hidden"),
            ("feed_forward.linear_1.bias", "intermediate.dense.bias", "feedforward"),
            ("feed_forward.linear_2.weight", "output.dense.weight", "hidden feedforward"),
            ("feed_forward.linear_2.bias", "output.dense.bias", "hidden"),
            ("layer_norm_2.gamma", "output.LayerNorm.weight", "hidden"),
            ("layer_norm_2.beta", "output.LayerNorm.bias", "hidden"),
        )
    ),
    heads={
        "mlm": _MLM,
        "bert": (*_NEXT_SENTENCE, *_MLM),
        "text_classification": _TEXT_CLASSIFICATION,
        "token_classification": _TOKEN_CLASSIFICATION,
        "extractive_qa": _EXTRACTIVE_QA,
    },
    aliases={".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"},
    buffers=(".position_ids", ".token_type_ids"),
    duplicates={"cls.predictions.decoder.bias": "cls.predictions.bias"},
    fixed={"segments": 2, "two": 2},
    prefixes={"uer": ("embedding.", "encoder."), "hugging_face": ("bert.embeddings.", "bert.encoder.")},
    base_prefix="bert.",
)

# The class that transformers opens a folder with this head as.
CLASSES = {
    "mlm": "BertForMaskedLM",
    "bert": "BertForPreTraining",
    "text_classification": "BertForSequenceClassification",
    "token_classification": "BertForTokenClassification",
    "extractive_qa": "BertForQuestionAnswering",
}

# The targets of a model that was pretrained with this head.
TARGETS = {"mlm": ("mlm",), "bert": ("mlm", "sp")}

# UER's activations by Hugging Face's names for the same formula.
ACTIVATIONS = {"gelu": "gelu", "gelu_fast": "gelu_fast", "relu": "relu", "silu": "silu"}

# Further names that Hugging Face has for UER's activations.
_MORE_ACTIVATIONS = {"gelu_new": "gelu_fast", "gelu_pytorch_tanh": "gelu_fast", "swish": "silu"}

# Settings of a model that leave its tensors' names as they are, but make it another function than BERT's.
_BERT_SETTINGS = {
    "mask": "fully_visible", "layernorm_positioning": "post", "feed_forward": "dense", "layernorm": "normal",
    "relative_position_embedding": False, "remove_attention_scale": False, "remove_transformer_bias": False,
    "remove_embedding_layernorm": False, "parameter_sharing": False, "has_residual_attention": False,
    "factorized_embedding_parameterization": False, "encoder": "transformer",
}


def model_config(sizes: Mapping[str, int], base: ModelConfig | None, targets: tuple[str, ...], tied: bool, path: str,
                 told: Mapping[str, Any] | None = None) -> ModelConfig:
    """The model that a checkpoint of these sizes holds.

    Args:
        sizes: `Conversion.sizes`.
        base: the model's settings where the user gives them; they say what a checkpoint cannot (heads, activation,
            dropout) and must agree with what a checkpoint can.
        targets: the model's targets.
        tied: whether the output layer shares the word embedding's weight.
        path: the checkpoint's, for the messages.
        told: instead of `base`, what `from_hugging_face_config` found.

    Raises:
        UserError: `base` contradicts the checkpoint or is not a BERT; or the number of heads cannot be guessed.
    """
    measured = {"layers_num": sizes["layers"], "hidden_size": sizes["hidden"], "emb_size": sizes["hidden"],
                "feedforward_size": sizes["feedforward"], "max_seq_length": sizes["positions"]}
    if base is None:
        base = ModelConfig(**{"heads_num": _guess_heads(sizes["hidden"], told, path), **(told or {})})
    else:
        _require_agreement(base, measured, path)
    if sizes["hidden"] % base.heads_num:
        raise UserError(f"{path}: hidden size {sizes['hidden']} is not divisible by {base.heads_num} heads")
    return replace(base, **measured, embedding=("word", "pos", "seg"), target=targets, tie_weights=tied)


def _guess_heads(hidden: int, told: Mapping[str, Any] | None, path: str) -> int:
    if told and "heads_num" in told:
        return told["heads_num"]
    if hidden % 64:
        raise UserError(f"{path}: hidden size {hidden} is no multiple of 64, so the number of heads is not known; give "
                        "the model's settings (--config_path, or Hugging Face's config.json beside the weights)")
    return hidden // 64


def _require_agreement(base: ModelConfig, measured: Mapping[str, int], path: str) -> None:
    for name, size in measured.items():
        if getattr(base, name) != size:
            raise UserError(f"{path}: {name} is {size}, but the model's settings say {getattr(base, name)}")
    for name, value in _BERT_SETTINGS.items():
        if getattr(base, name) != value:
            raise UserError(f"{path}: {name} is {getattr(base, name)} in the model's settings, but a BERT's is {value}")
    if base.hidden_act not in ACTIVATIONS:
        raise UserError(f"{path}: hidden_act {base.hidden_act} has no counterpart in Hugging Face's BERT; these have: "
                        f"{', '.join(ACTIVATIONS)}")


def hugging_face_config(config: ModelConfig, vocab_size: int, head: str, pad_id: int = 0, tied: bool = True,
                        labels: tuple[str, ...] = ()) -> dict[str, Any]:
    """The content of config.json.

    Args:
        config: as `model_config` gives it.
        vocab_size: rows of the word embedding.
        head: a key of `BERT.heads`.
        pad_id: the number of [PAD].
        tied: whether the output layer shares the word embedding's weight.
        labels: the labels' names, for a classification head.
    """
    content: dict[str, Any] = {
        "architectures": [CLASSES[head]],
        "model_type": "bert",
        "attention_probs_dropout_prob": config.dropout,
        "classifier_dropout": None,
        "hidden_act": ACTIVATIONS[config.hidden_act],
        "hidden_dropout_prob": config.dropout,
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.feedforward_size,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": config.max_seq_length,
        "num_attention_heads": config.heads_num,
        "num_hidden_layers": config.layers_num,
        "pad_token_id": pad_id,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": tied,
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": vocab_size,
    }
    if labels:
        content["id2label"] = {str(number): label for number, label in enumerate(labels)}
        content["label2id"] = {label: number for number, label in enumerate(labels)}
    return content


def from_hugging_face_config(content: Mapping[str, Any], path: str) -> dict[str, Any]:
    """What config.json says of a BERT that its tensors cannot: heads, activation, dropout, under UER's names.

    Raises:
        UserError: the model computes something that UER's BERT does not.
    """
    kind = content.get("model_type", "bert")
    if kind != "bert":
        raise UserError(f"{path}: model_type is {kind}; only bert can be converted")
    for name, value in (("position_embedding_type", "absolute"), ("is_decoder", False), ("type_vocab_size", 2)):
        if content.get(name, value) != value:
            raise UserError(f"{path}: {name} is {content[name]}; UER's BERT has {value}")
    activations = {**{theirs: ours for ours, theirs in ACTIVATIONS.items()}, **_MORE_ACTIVATIONS}
    act = content.get("hidden_act", "gelu")
    if act not in activations:
        raise UserError(f"{path}: hidden_act {act} has no counterpart in UER; these have: {', '.join(activations)}")
    found: dict[str, Any] = {"hidden_act": activations[act], "dropout": content.get("hidden_dropout_prob", 0.1)}
    if type(found["dropout"]) not in (int, float) or not 0 <= found["dropout"] < 1:
        raise UserError(f"{path}: hidden_dropout_prob must lie in [0, 1), not {found['dropout']}")
    if "num_attention_heads" in content:
        found["heads_num"] = content["num_attention_heads"]
        if type(found["heads_num"]) is not int or found["heads_num"] < 1:
            raise UserError(f"{path}: num_attention_heads must be a whole number, not {found['heads_num']}")
    return found


def require_sizes(content: Mapping[str, Any], sizes: Mapping[str, int], path: str) -> None:
    """
    Raises:
        UserError: config.json contradicts the weights beside it.
    """
    for name, dimension in (("num_hidden_layers", "layers"), ("hidden_size", "hidden"), ("vocab_size", "vocab"),
                            ("intermediate_size", "feedforward"), ("max_position_embeddings", "positions")):
        if content.get(name, sizes[dimension]) != sizes[dimension]:
            raise UserError(f"{path}: config.json says {name} {content[name]}, but the weights have {sizes[dimension]}")


def labels_of(content: Mapping[str, Any], count: int, path: str) -> tuple[str, ...]:
    """The labels' names in config.json, in the order of their numbers; LABEL_0, LABEL_1, ... where it has none.

    Raises:
        UserError: it names another number of labels than the weights have.
    """
    given = content.get("id2label")
    if not isinstance(given, Mapping):
        return tuple(f"LABEL_{number}" for number in range(count))
    if {str(number) for number in given} != {str(number) for number in range(count)}:
        raise UserError(f"{path}: id2label names {len(given)} labels, the weights have {count}")
    return tuple(str({str(number): label for number, label in given.items()}[str(number)]) for number in range(count))
