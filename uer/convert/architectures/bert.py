"""BERT (Devlin et al., 2019).

The heads: `mlm` (masked-language model), `bert` (that and next-sentence prediction), and the fine-tuned ones.
"""

from uer.convert.architectures.base import Architecture, inputs_with_segments
from uer.convert.changes import DropRows
from uer.convert.names import WORD_EMBEDDING, NameTable, Row, Stack, layer_norm, linear
from uer.convert.settings import Names, Setting, epsilon, from_epsilon, probability, uer_only, whole_number

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

_ACTIVATIONS = Names({"gelu": ("gelu",), "gelu_fast": ("gelu_fast", "gelu_new", "gelu_pytorch_tanh"),
                      "relu": ("relu",), "silu": ("silu", "swish")}, "Hugging Face's BERT")

AS_BERT = uer_only(
    mask="fully_visible", layernorm_positioning="post", feed_forward="dense", layernorm="normal",
    relative_position_embedding=False, remove_attention_scale=False, remove_transformer_bias=False,
    remove_embedding_layernorm=False, parameter_sharing=False, has_residual_attention=False,
    factorized_embedding_parameterization=False, encoder="transformer")
"""What an encoder with BERT's function has, whatever its names are."""

_SETTINGS = (
    Setting("dropout", "attention_probs_dropout_prob", only="write"),
    Setting("", "classifier_dropout", must=None, only="write"),
    Setting("hidden_act", "hidden_act", _ACTIVATIONS.to, _ACTIVATIONS.back),
    Setting("dropout", "hidden_dropout_prob", back=probability),
    Setting("hidden_size", "hidden_size", size="hidden"),
    Setting("emb_size", size="hidden"),
    Setting("", "initializer_range", must=0.02, only="write"),
    Setting("feedforward_size", "intermediate_size", size="feedforward"),
    Setting("layernorm_eps", "layer_norm_eps", to=epsilon, back=from_epsilon),
    Setting("max_seq_length", "max_position_embeddings", size="positions"),
    Setting("heads_num", "num_attention_heads", back=whole_number),
    Setting("layers_num", "num_hidden_layers", size="layers"),
    Setting("pad_id", "pad_token_id", only="write"),
    Setting("", "position_embedding_type", must="absolute"),
    Setting("tie_weights", "tie_word_embeddings", only="write"),
    Setting("", "type_vocab_size", must=2),
    Setting("", "use_cache", must=True, only="write"),
    Setting("vocab_size", "vocab_size", size="vocab"),
    Setting("", "is_decoder", must=False, only="read"),
    # Settings that leave the names of the tensors as they are, but make it another function than BERT's.
    Setting("embedding", must=("word", "pos", "seg"), only="write"),
    *AS_BERT,
    Setting("pooling", must="first", heads=("text_classification",)),
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
