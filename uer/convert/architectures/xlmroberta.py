"""XLM-RoBERTa (Conneau et al., 2020): BERT's layers, one segment, and positions that begin after two unused rows.

The heads: `mlm` (masked-language model), and the fine-tuned ones.
"""

from dataclasses import replace

from uer.convert.architectures.base import Architecture
from uer.convert.architectures.bert import BERT, UNSHARED, settings
from uer.convert.architectures.gpt2 import inputs
from uer.convert.changes import AddRows, Chain, Change, DropRows, OneSegment
from uer.convert.names import WORD_EMBEDDING, NameTable, Row, Stack, layer_norm, linear
from uer.convert.settings import Names, Setting, epsilon, from_epsilon

# Both sides have as many rows, so UER's last two find no room in Hugging Face's, and are zeros on the way back.
_CHANGES: dict[str, Change] = {"embedding.pos.embedding.weight": Chain((AddRows(2), DropRows(2, last=True))),
                               "embedding.seg.embedding.weight": OneSegment()}

_NAMES = NameTable(
    body=tuple(replace(row, hugging_face=row.hugging_face.replace("bert.", "roberta."),
                       change=_CHANGES.get(row.names("uer")[0], row.change)) for row in BERT.names.body),
    stacks={"encoder": Stack("encoder.transformer.{n}.", "roberta.encoder.layer.{n}.",
                             BERT.names.stacks["encoder"].rows)},
    heads={
        "mlm": (
            *linear("target.mlm.linear_1", "lm_head.dense", "hidden hidden"),
            *layer_norm("target.mlm.layer_norm", "lm_head.layer_norm"),
            Row("target.mlm.linear_2.weight", "lm_head.decoder.weight", "vocab hidden", tied_to=WORD_EMBEDDING),
            Row("target.mlm.linear_2.bias", "lm_head.bias", "vocab"),
        ),
        "text_classification": (*linear("output_layer_1", "classifier.dense", "hidden hidden"),
                                *linear("output_layer_2", "classifier.out_proj", "labels hidden")),
        "token_classification": linear("output_layer", "classifier", "labels hidden"),
        "extractive_qa": linear("output_layer", "qa_outputs", "two hidden"),
    },
    prefixes={"uer": ("embedding.", "encoder."), "hugging_face": ("roberta.embeddings.", "roberta.encoder.")},
    fixed={"segments": 3, "two": 2},
    buffers=(".position_ids", ".token_type_ids"),
    duplicates={"lm_head.decoder.bias": "lm_head.bias"},
    stores_duplicates=True,
    base_prefix="roberta.",
)

# The mlm head of transformers has gelu, whatever config.json says.
_ACTIVATIONS = Names({"gelu": ("gelu",)}, "Hugging Face's XLM-RoBERTa")

_SETTINGS = settings(
    *UNSHARED,
    Setting("cls_id", "bos_token_id", only="write"),
    Setting("sep_id", "eos_token_id", only="write"),
    Setting("hidden_act", "hidden_act", _ACTIVATIONS.to, _ACTIVATIONS.back),
    Setting("layernorm_eps", "layer_norm_eps", epsilon, from_epsilon, default=1e-12),
    # Positions are counted from this number on, and so begin at row 2.
    Setting("", "pad_token_id", must=1),
    Setting("", "type_vocab_size", must=1),
)


XLM_ROBERTA = Architecture(
    name="xlm-roberta",
    title="XLM-RoBERTa",
    article="An",
    names=_NAMES,
    settings=_SETTINGS,
    classes={
        "mlm": "XLMRobertaForMaskedLM",
        "text_classification": "XLMRobertaForSequenceClassification",
        "token_classification": "XLMRobertaForTokenClassification",
        "extractive_qa": "XLMRobertaForQuestionAnswering",
    },
    outputs={"mlm": {"mlm": "logits"}},
    inputs=inputs,
    tokenizers=("xlmroberta",),
    segments=1,
    unused_positions=2,
    padding_id=1,
)
