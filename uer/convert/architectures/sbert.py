"""SBERT (Reimers and Gurevych, 2019): the first encoder of UER's dual encoder, or a single one, as a headless BERT.

The names are BERT's, without its prefix in Hugging Face's files and under `embedding_0` and `encoder_0` in UER's. The
folder has the files of sentence-transformers, which say how hidden states become one vector.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from uer.config import ModelConfig
from uer.convert.architectures.bert import BERT
from uer.convert.names import NameTable, Row, Stack
from uer.errors import UserError
from uer.json_files import read_json_object

# The beginnings of names in a BERT, and in the first of two.
_STREAM = {"embedding.": "embedding.dual.embedding_0.", "encoder.": "encoder.encoder_0."}
_SECOND = {"embedding.dual.embedding_0.": "embedding.dual.embedding_1.", "encoder.encoder_0.": "encoder.encoder_1."}
SECOND_NORM = "embedding.dual.stream_0_layer_norm."
_STREAM_SETTINGS = ("emb_size", "hidden_size", "feedforward_size", "heads_num", "layers_num", "hidden_act", "dropout",
                    "max_seq_length", "embedding", "encoder", "mask")
# UER's names of a pooling, and those of sentence-transformers.
POOLINGS = {"first": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens",
            "last": "pooling_mode_lasttoken"}


def _renamed(name: str, beginnings: Mapping[str, str]) -> str:
    """The name with its beginning replaced; as it is where it begins otherwise."""
    for old, new in beginnings.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _row(row: Row) -> Row:
    assert isinstance(row.uer, str)
    return Row(_renamed(row.uer, _STREAM), row.hugging_face.removeprefix("bert."), row.shape, row.change)


_NAMES = NameTable(
    body=tuple(map(_row, BERT.names.body)),
    stacks={"encoder": Stack("encoder.encoder_0.transformer.{n}.", "encoder.layer.{n}.",
                             BERT.names.stacks["encoder"].rows)},
    heads={"sbert": ()},
    prefixes={"uer": tuple(_STREAM.values()), "hugging_face": ("embeddings.", "encoder.")},
    fixed={"segments": 3},
    aliases=BERT.names.aliases,
    buffers=BERT.names.buffers,
)


def prepare(weights: Mapping[str, Tensor], content: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """The weights without the prefix that they have in a BERT with a head."""
    return {name.removeprefix("bert."): tensor for name, tensor in weights.items()}


def complete(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The second encoder's tensors: those of the first, as the tied dual encoder has them."""
    return {_renamed(name, _SECOND): tensor for name, tensor in weights.items()}


def backbone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first encoder's tensors under the names of a BERT."""
    back = {new: old for old, new in _STREAM.items()}
    return {_renamed(name, back): tensor for name, tensor in weights.items() if name.startswith(tuple(back))}


def adopt(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A single encoder, such as that of run_simcse.py, as the first of two; the tensors of two as they are."""
    dual = any(name.startswith(tuple(_STREAM.values())) for name in weights)
    return dict(weights) if dual else {_renamed(name, _STREAM): tensor for name, tensor in weights.items()}


def first_stream(config: ModelConfig, path: str) -> ModelConfig:
    """The settings of the first encoder: those of `stream_0` override the others.

    Raises:
        UserError: the settings are not those of a dual encoder of two encoders.
    """
    if config.encoder != "dual":
        return config
    if not {"encoder", "embedding"} <= (config.stream_0 or {}).keys():
        raise UserError(f"{path}: stream_0 of the model's settings names no encoder and embedding")
    return config.stream(0)


def dual_settings(config: ModelConfig) -> dict[str, Any]:
    """The settings of the dual encoder whose two encoders are this one."""
    stream = {name: getattr(config, name) for name in _STREAM_SETTINGS}
    return {"embedding": ["dual"], "encoder": "dual", "pooling": config.pooling, "tie_weights": True,
            "stream_0": stream, "stream_1": stream}


def read_other_files(folder: Path) -> dict[str, Any]:
    """The pooling that a folder of sentence-transformers names; {} where it has no file for that.

    Raises:
        UserError: it names several, or none that UER has.
    """
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return {}
    modes = [mode for mode, value in read_json_object(path).items() if mode.startswith("pooling_mode_") and value]
    found = [name for name, mode in POOLINGS.items() if [mode] == modes]
    if not found:
        raise UserError(f"{path}: pools by {' and '.join(modes) or 'nothing'}; one of {', '.join(POOLINGS.values())} "
                        "is needed")
    return {"pooling": found[0]}


def files(config: ModelConfig, seq_length: int) -> dict[str, Any]:
    """What sentence-transformers reads beside a model: path in the folder -> content of the JSON file."""
    module = "sentence_transformers.models."
    pooling = {mode: name == config.pooling for name, mode in POOLINGS.items()}
    return {
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": f"{module}Transformer"},
                         {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{module}Pooling"}],
        "sentence_bert_config.json": {"max_seq_length": seq_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None,
                                              "similarity_fn_name": "cosine"},
        "1_Pooling/config.json": {"word_embedding_dimension": config.hidden_size, **pooling},
    }


SBERT = replace(
    BERT,
    title="Sentence-BERT",
    names=_NAMES,
    classes={"sbert": "BertModel"},
    outputs={"sbert": {"hidden": "last_hidden_state"}},
    notes={SECOND_NORM: "note: UER-py's own dual encoder has a second layer norm after the embedding, which neither "
                        "this toolkit nor Hugging Face's model computes: a model trained with it gives other vectors"},
    prepare=prepare,
    complete=complete,
    read_other_files=read_other_files,
    adopt=adopt,
    backbone=backbone,
    first_stream=first_stream,
    settings_json=dual_settings,
    files=files,
    arguments={"add_pooling_layer": False},
)
