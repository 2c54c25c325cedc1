"""ALBERT (Lan et al., 2020): all layers share one set of weights, and the embedding is narrower than the layers.

The heads: `mlm` (masked-language model), `albert` (that and the order of two sentences), and the fine-tuned ones.
"""

from uer.convert.architectures.base import Architecture, inputs_with_segments
from uer.convert.architectures.bert import settings
from uer.convert.changes import DropRows
from uer.convert.names import WORD_EMBEDDING, NameTable, Row, Stack, layer_norm, linear
from uer.convert.settings import Setting, activations, epsilon, from_epsilon, whole_number

_MLM = (
    *linear("target.mlm.linear_1", "predictions.dense", "embedding hidden"),
    *layer_norm("target.mlm.layer_norm", "predictions.LayerNorm", "embedding"),
    Row("target.mlm.linear_2.weight", "predictions.decoder.weight", "vocab embedding", tied_to=WORD_EMBEDDING),
    Row("target.mlm.linear_2.bias", "predictions.bias", "vocab"),
)
_SENTENCE_ORDER = (
    *linear("target.sp.linear_1", "albert.pooler", "hidden hidden"),
    *linear("target.sp.linear_2", "sop_classifier.classifier", "two hidden"),
)

_NAMES = NameTable(
    body=(
        Row(WORD_EMBEDDING, "albert.embeddings.word_embeddings.weight", "vocab embedding"),
        Row("embedding.pos.embedding.weight", "albert.embeddings.position_embeddings.weight", "positions embedding"),
        # UER's segment 0 belongs to padding, which attention never sees.
        Row("embedding.seg.embedding.weight", "albert.embeddings.token_type_embeddings.weight", "segments embedding",
            DropRows(1)),
        *layer_norm("embedding.layer_norm", "albert.embeddings.LayerNorm", "embedding"),
        *linear("encoder.linear", "albert.encoder.embedding_hidden_mapping_in", "hidden embedding"),
    ),
    stacks={"encoder": Stack("encoder.transformer.", "albert.encoder.albert_layer_groups.0.albert_layers.0.", (
        *layer_norm("layer_norm_2", "full_layer_layer_norm"),
        *linear("self_attn.linear_layers.0", "attention.query", "hidden hidden"),
        *linear("self_attn.linear_layers.1", "attention.key", "hidden hidden"),
        *linear("self_attn.linear_layers.2", "attention.value", "hidden hidden"),
        *linear("self_attn.final_linear", "attention.dense", "hidden hidden"),
        *layer_norm("layer_norm_1", "attention.LayerNorm"),
        *linear("feed_forward.linear_1", "ffn", "feedforward hidden"),
        *linear("feed_forward.linear_2", "ffn_output", "hidden feedforward"),
    ))},
    heads={
        "mlm": _MLM,
        "albert": (*_SENTENCE_ORDER, *_MLM),
        "text_classification": (*linear("output_layer_1", "albert.pooler", "hidden hidden"),
                                *linear("output_layer_2", "classifier", "labels hidden")),
        "token_classification": linear("output_layer", "classifier", "labels hidden"),
        "extractive_qa": linear("output_layer", "qa_outputs", "two hidden"),
    },
    prefixes={"uer": ("embedding.", "encoder."), "hugging_face": ("albert.embeddings.", "albert.encoder.")},
    fixed={"segments": 3, "two": 2},
    buffers=(".position_ids", ".token_type_ids"),
    duplicates={"predictions.decoder.bias": "predictions.bias"},
    stores_duplicates=True,
    base_prefix="albert.",
)

_ACTIVATIONS = activations("gelu_new", "Hugging Face's ALBERT")

_SETTINGS = settings(
    Setting("dropout", "classifier_dropout_prob", only="write"),
    Setting("emb_size", "embedding_size", size="embedding"),
    Setting("hidden_act", "hidden_act", _ACTIVATIONS.to, _ACTIVATIONS.back, default="gelu_new"),
    Setting("", "inner_group_num", must=1),
    Setting("layernorm_eps", "layer_norm_eps", epsilon, from_epsilon, default=1e-12),
    Setting("", "num_hidden_groups", must=1),
    Setting("layers_num", "num_hidden_layers", back=whole_number),
    Setting("pad_id", "pad_token_id", only="write"),
    Setting("", "type_vocab_size", must=2),
    parameter_sharing=True, factorized_embedding_parameterization=True,
)

ALBERT = Architecture(
    name="albert",
    title="ALBERT",
    article="An",
    names=_NAMES,
    settings=_SETTINGS,
    classes={
        "mlm": "AlbertForMaskedLM",
        "albert": "AlbertForPreTraining",
        "text_classification": "AlbertForSequenceClassification",
        "token_classification": "AlbertForTokenClassification",
        "extractive_qa": "AlbertForQuestionAnswering",
    },
    outputs={"albert": {"mlm": "prediction_logits", "sp": "sop_logits"}, "mlm": {"mlm": "logits"}},
    inputs=inputs_with_segments,
    defaults={"hidden_act": "relu"},
)
