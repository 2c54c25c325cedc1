"""The names that the original TensorFlow releases of BERT and ALBERT have, derived from Hugging Face's.

    bert.encoder.layer.0.attention.self.query.weight    bert/encoder/layer_0/attention/self/query/kernel, transposed
    bert.embeddings.LayerNorm.weight                    bert/embeddings/LayerNorm/gamma
    bert.embeddings.word_embeddings.weight              bert/embeddings/word_embeddings

An architecture with these names in the column of Hugging Face's converts by the same functions. TensorFlow's models
have no output layer of their own: they multiply by the word embedding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from uer.convert.architectures import Architecture
from uer.convert.changes import TRANSPOSED
from uer.convert.names import NameTable, Row, Stack

POSITIONS = "bert/embeddings/position_embeddings"
MOST_POSITIONS = 512  # that the released models have

# What an optimizer keeps beside the weights, and the number of updates.
OPTIMIZER = ("/adam_m", "/adam_v", "/AdamWeightDecayOptimizer", "/AdamWeightDecayOptimizer_1", "global_step")

# Hugging Face's names of modules (without the beginning that a layer's names have), where TensorFlow's are others.
_MODULES = {
    "albert.pooler": "bert/pooler/dense",
    "predictions.dense": "cls/predictions/transform/dense",
    "predictions.LayerNorm": "cls/predictions/transform/LayerNorm",
    "attention.query": "attention_1/self/query",
    "attention.key": "attention_1/self/key",
    "attention.value": "attention_1/self/value",
    "attention.dense": "attention_1/output/dense",
    "attention.LayerNorm": "LayerNorm",
    "ffn": "ffn_1/intermediate/dense",
    "ffn_output": "ffn_1/intermediate/output/dense",
    "full_layer_layer_norm": "LayerNorm_1",
}
# Tensors of the output layers; their weights are not transposed.
_OUTPUTS = {
    "cls.predictions.bias": "cls/predictions/output_bias",
    "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
    "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
    "predictions.bias": "cls/predictions/output_bias",
    "sop_classifier.classifier.weight": "cls/seq_relationship/output_weights",
    "sop_classifier.classifier.bias": "cls/seq_relationship/output_bias",
}
_LAYERS = {
    "bert.encoder.layer.{n}.": "bert/encoder/layer_{n}/",
    "albert.encoder.albert_layer_groups.0.albert_layers.0.": "bert/encoder/transformer/group_0/inner_group_0/",
}


def tensorflow_architecture(architecture: Architecture) -> Architecture:
    """BERT or ALBERT with TensorFlow's names in the column of Hugging Face's, under the heads of pretraining.

    The name of a tied output layer is "": no file has it.
    """
    table = architecture.names
    stacks: Mapping[str, Stack] = {
        name: replace(stack, hugging_face=_LAYERS[stack.hugging_face], rows=_rows(stack.rows))
        for name, stack in table.stacks.items()}
    return replace(architecture, names=NameTable(
        body=_rows(table.body), stacks=stacks, heads={head: _rows(table.heads[head]) for head in architecture.outputs},
        prefixes={"uer": table.prefixes["uer"], "hugging_face": ("bert/embeddings/", "bert/encoder/")},
        fixed=table.fixed, buffers=OPTIMIZER))


def _rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    return tuple(map(_row, rows))


def _row(row: Row) -> Row:
    name = "" if row.tied_to else _name(row)
    return replace(row, hugging_face=name, change=TRANSPOSED if name.endswith("/kernel") else row.change)


def _name(row: Row) -> str:
    if row.hugging_face in _OUTPUTS:
        return _OUTPUTS[row.hugging_face]
    (uer,), module = row.names("uer"), row.hugging_face.rpartition(".")[0]
    module = _MODULES.get(module, module.replace("albert.", "bert.").replace(".", "/"))
    leaf = uer.rpartition(".")[2]  # gamma, beta, weight or bias
    return module if uer.endswith(".embedding.weight") else f"{module}/{'kernel' if leaf == 'weight' else leaf}"
