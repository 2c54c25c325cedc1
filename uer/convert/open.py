"""Opening a model by its path, of whichever world: the weights under UER's names, the settings, the tokenizer.

What counts as Hugging Face's: a folder that holds config.json or weights as transformers names them, a .safetensors
file, the index of a sharded one, and a torch file whose tensors have Hugging Face's names.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from uer.checkpoint.files import load_weights
from uer.config import ModelConfig
from uer.convert import bert, names
from uer.convert.bert import BERT
from uer.convert.files import WEIGHT_FILES, HuggingFaceModel, read_hugging_face
from uer.convert.recipe import Stage, recorded_stages
from uer.errors import UserError

PRETRAINED_HEADS = ("bert", "mlm")


@dataclass(frozen=True)
class HuggingFaceSource:
    """A Hugging Face model under UER's names.

    Attributes:
        path: as it was given.
        head: a key of `BERT.heads`; "" for an encoder without a known head.
        model: as it lies on disk, its names tidied.
        converted: its weights under UER's names.
        config: its architecture.
    """

    path: str
    head: str
    model: HuggingFaceModel
    converted: names.Conversion
    config: ModelConfig

    @property
    def folder(self) -> Path:
        """Where its other files lie."""
        return folder_of(self.path)


def folder_of(path: str | os.PathLike) -> Path:
    """The folder itself, or that of a file."""
    return Path(path) if Path(path).is_dir() else Path(path).parent


def is_hugging_face(path: str | os.PathLike) -> bool:
    """Whether a path is Hugging Face's by its name and its neighbours; nothing but config.json's presence is read."""
    path = Path(path)
    if path.is_dir():
        return any((path / name).is_file() for name in ("config.json", *WEIGHT_FILES))
    return path.name.endswith((".safetensors", ".index.json")) or (
        path.name == "pytorch_model.bin" and (path.parent / "config.json").is_file())


def open_hugging_face(path: str | os.PathLike, head: str | None = None) -> HuggingFaceSource:
    """Read and convert a Hugging Face folder or file.

    Args:
        path: the folder, or the file of its weights.
        head: a key of `BERT.heads`; by what the weights hold where it is None.

    Raises:
        UserError: what is missing, damaged, or no BERT, in one line.
    """
    path = str(path)
    found = read_hugging_face(path)
    model = HuggingFaceModel(names.tidy(found.weights, BERT), found.config)
    return convert_hugging_face(model, path, fitting_head(model.weights, model.config) if head is None else head)


def convert_hugging_face(model: HuggingFaceModel, path: str, head: str) -> HuggingFaceSource:
    """A model that was read, converted under a head; errors as `open_hugging_face`."""
    told = bert.from_hugging_face_config(model.config, path)
    converted = names.from_hugging_face(model.weights, BERT, head, path)
    bert.require_sizes(model.config, converted.sizes, path)
    tied = all(names.is_tied(converted.weights, row, "uer", BERT)
               for row in (BERT.heads[head] if head else ()) if row.tied_to)
    config = bert.model_config(converted.sizes, None, bert.TARGETS.get(head, ("mlm",)), tied, path, told)
    return HuggingFaceSource(path, head, model, converted, config)


def fitting_head(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> str:
    """The head that tidied Hugging Face weights hold, "" for none; config.json's class decides where several fit."""
    fitting = names.fitting_heads(weights, BERT, "hugging_face")
    classes = config.get("architectures") or ()
    told = [head for head, name in bert.CLASSES.items() if name in classes]
    return next((head for head in (*PRETRAINED_HEADS, *told, *BERT.heads) if head in fitting), "")


def pretrained_head(weights: Mapping[str, Tensor], side: names.Side) -> str:
    """The head of a pretrained model: bert where it holds next-sentence prediction too, else mlm."""
    return "bert" if "bert" in names.fitting_heads(weights, BERT, side) else "mlm"


def load_uer_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """The weights of a UER checkpoint as they are, those of a Hugging Face model under UER's names.

    Raises:
        UserError: it cannot be read, or is a Hugging Face model of another architecture.
    """
    if is_hugging_face(path):
        return open_hugging_face(path).converted.weights
    weights = load_weights(path)
    tidied = names.tidy(weights, BERT)
    if not all(row.hugging_face in tidied for row in BERT.body):
        return weights
    return names.from_hugging_face(tidied, BERT, fitting_head(tidied, {}), str(path)).weights


def checkpoint_config(weights: Mapping[str, Tensor], stages: list[Stage], path: str) -> ModelConfig:
    """The settings of a UER checkpoint, as the files beside it tell, else as its tensors do.

    Args:
        stages: `recorded_stages` of it.

    Raises:
        UserError: nothing is recorded, and it is no BERT or its number of heads cannot be told.
    """
    if stages:
        return stages[0].model()
    return bert.model_config(names.measure(weights, BERT, "uer", path), None, ("mlm",), False, path)


def open_checkpoint(path: str | os.PathLike, config: ModelConfig | None) -> tuple[dict[str, Tensor], ModelConfig]:
    """Weights under UER's names, and the settings: `config`, or as the files beside it tell, or as its tensors do.

    Raises:
        UserError: it cannot be read, or nothing tells its settings and it is no BERT.
    """
    path = str(path)
    if is_hugging_face(path):
        source = open_hugging_face(path)
        return source.converted.weights, config or source.config
    weights = load_uer_weights(path)
    if config is not None:
        return weights, config
    return weights, checkpoint_config(weights, recorded_stages(path), path)


def vocab_size(weights: Mapping[str, Tensor], path: str) -> int:
    """Rows of the word embedding.

    Raises:
        UserError: there is none.
    """
    name = BERT.body[0].uer
    if name not in weights:
        raise UserError(f"{path}: has no {name}; its names are not UER's")
    return len(weights[name])
