"""BERT (Devlin et al., 2019).

The heads: `mlm` (masked-language model), `bert` (that and next-sentence prediction), and the fine-tuned ones.
"""

from typing import Any

from uer.convert.architectures.base import Architecture, inputs_with_segments
from uer.convert.changes import DropRows
from uer.convert.names import WORD_EMBEDDING, NameTable, Row, Stack, layer_norm, linear
from uer.convert.settings import Setting, activations, epsilon, from_epsilon, probability, uer_only, whole_number

_MLM = (
    *linear("target.mlm.linear_1", "cls.predictions.transform.dense", "hidden hidden"),
    *layer_norm("target.mlm.layer_norm", "cls.predictions.transform.LayerNorm"),
    Row("target.mlm.linear_2.weight", "cls.predictions.decoder.weight", "vocab hidden", tied_to=WORD_EMBEDDING),
    Row("target.mlm.linear_2.bias", "cls.predictions.bias", "vocab"),
)
_NEXT_SENTENCE = (
    *linear("target.sp.linear_1", "bert.pooler.dense", "hidden hidden"),
    *linear("target.sp.linear_2", "cls.seq_relationship", "two hidden"),
)

_NAMES = NameTable(
    body=(
        Row(WORD_EMBEDDING, "bert.embeddings.word_embeddings.weight", "vocab hidden"),
        Row("embedding.pos.embedding.weight", "bert.embeddings.position_embeddings.weight", "positions hidden"),
        # UER's segment 0 belongs to padding, which attention never sees.
        Row("embedding.seg.embedding.weight", "bert.embeddings.token_type_embeddings.weight", "segments hidden",
            DropRows(1)),
        *layer_norm("embedding.layer_norm", "bert.embeddings.LayerNorm"),
    ),
    stacks={"encoder": Stack("encoder.transformer.{n}.", "bert.encoder.layer.{n}.", (
        *linear("self_attn.linear_layers.0", "attention.self.query", "hidden hidden"),
        *linear("self_attn.linear_layers.1", "attention.self.key", "hidden hidden"),
        *linear("self_attn.linear_layers.2", "attention.self.value", "hidden hidden"),
        *linear("self_attn.final_linear", "attention.output.dense", "hidden hidden"),
        *layer_norm("layer_norm_1", "attention.output.LayerNorm"),
        *linear("feed_forward.linear_1", "intermediate.dense", "feedforward hidden"),
        *linear("feed_forward.linear_2", "output.dense", "hidden feedforward"),
        *layer_norm("layer_norm_2", "output.LayerNorm"),
    ))},
    heads={
        "mlm": _MLM,
        "bert": (*_NEXT_SENTENCE, *_MLM),
        "text_classification": (*linear("output_layer_1", "bert.pooler.dense", "hidden hidden"),
                                *linear("output_layer_2", "classifier", "labels hidden")),
        "token_classification": linear("output_layer", "classifier", "labels hidden"),
        "extractive_qa": linear("output_layer", "qa_outputs", "two hidden"),
    },
    prefixes={"uer": ("embedding.", "encoder."), "hugging_face": ("bert.embeddings.", "bert.encoder.")},
    fixed={"segments": 3, "two": 2},
    aliases={".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"},
    buffers=(".position_ids", ".token_type_ids"),
    duplicates={"cls.predictions.decoder.bias": "cls.predictions.bias"},
    base_prefix="bert.",
)

_ACTIVATIONS = activations("gelu_fast", "Hugging Face's BERT")


def settings(*own: Setting, **uer: Any) -> tuple[Setting, ...]:
    """The rows of BERT, ALBERT and XLM-RoBERTa, and one's own, in the order of config.json.

    Args:
        uer: what UER's own settings are, where they are not BERT's.
    """
    shared = (
        Setting("dropout", "attention_probs_dropout_prob", only="write"),
        Setting("dropout", "hidden_dropout_prob", back=probability),
        Setting("hidden_size", "hidden_size", size="hidden"),
        Setting("", "initializer_range", must=0.02, only="write"),
        Setting("feedforward_size", "intermediate_size", size="feedforward"),
        Setting("max_seq_length", "max_position_embeddings", size="positions"),
        Setting("heads_num", "num_attention_heads", back=whole_number),
        Setting("", "position_embedding_type", must="absolute"),
        Setting("tie_weights", "tie_word_embeddings", only="write"),
        Setting("vocab_size", "vocab_size", size="vocab"),
    )
    return (*sorted((*shared, *own), key=lambda row: row.hugging_face),
            # Settings that leave the names of the tensors as they are, but make it another function than BERT's.
            Setting("embedding", must=("word", "pos", "seg"), only="write"),
            *uer_only(**{"mask": "fully_visible", "layernorm_positioning": "post", "remove_embedding_layernorm": False,
                         **uer}),
            Setting("pooling", must="first", heads=("text_classification",)))


UNSHARED = (
    Setting("", "classifier_dropout", must=None, only="write"),
    Setting("emb_size", size="hidden"),
    Setting("layers_num", "num_hidden_layers", size="layers"),
    Setting("", "use_cache", must=True, only="write"),
    Setting("", "is_decoder", must=False, only="read"),
)
"""Rows of BERT and XLM-RoBERTa that ALBERT lacks."""

_SETTINGS = settings(
    *UNSHARED,
    Setting("hidden_act", "hidden_act", _ACTIVATIONS.to, _ACTIVATIONS.back),
    Setting("layernorm_eps", "layer_norm_eps", to=epsilon, back=from_epsilon),
    Setting("pad_id", "pad_token_id", only="write"),
    Setting("", "type_vocab_size", must=2),
)


BERT = Architecture(
    name="bert",
    title="BERT",
    names=_NAMES,
    settings=_SETTINGS,
    classes={
        "mlm": "BertForMaskedLM",
        "bert": "BertForPreTraining",
        "text_classification": "BertForSequenceClassification",
        "token_classification": "BertForTokenClassification",
        "extractive_qa": "BertForQuestionAnswering",
    },
    outputs={"bert": {"mlm": "prediction_logits", "sp": "seq_relationship_logits"}, "mlm": {"mlm": "logits"}},
    inputs=inputs_with_segments,
)
