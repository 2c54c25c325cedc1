"""Opening a model of UER or of Hugging Face by its path: the weights under UER's names, the settings, the tokenizer.

What counts as Hugging Face's: a folder that holds config.json or weights as transformers names them, a .safetensors
file, the index of a sharded one, and a torch file whose tensors have Hugging Face's names.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from uer.checkpoint.files import load_weights
from uer.config import ModelConfig
from uer.convert import names
from uer.convert.architectures import ARCHITECTURES, Architecture
from uer.convert.hugging_face_files import WEIGHT_FILES, HuggingFaceModel, read_hugging_face
from uer.convert.names import WORD_EMBEDDING
from uer.convert.old_names import translated, translation_line
from uer.convert.provenance import Stage, recorded_stages
from uer.errors import UserError

logger = logging.getLogger("uer.convert")

# What a checkpoint is taken for where neither settings nor names tell.
USUAL = ARCHITECTURES["bert"]

POSITION_EMBEDDING = "embedding.pos.embedding.weight"


@dataclass(frozen=True)
class HuggingFaceSource:
    """A Hugging Face model under UER's names.

    Attributes:
        path: as it was given.
        architecture: which kind of model it is.
        head: a key of `architecture.classes`; "" for a model without a known head.
        model: as it lies on disk, its names tidied.
        converted: its weights under UER's names.
        config: its settings.
    """

    path: str
    architecture: Architecture
    head: str
    model: HuggingFaceModel
    converted: names.Conversion
    config: ModelConfig

    @property
    def folder(self) -> Path:
        """Where its other files lie."""
        return folder_of(self.path)

    def usable(self, config: ModelConfig | None = None) -> tuple[dict[str, Tensor], ModelConfig]:
        """The weights and the settings, `config` or those of the folder, without the last positions, which are zeros
        because Hugging Face's model has no such positions."""
        weights, config, unused = self.converted.weights, config or self.config, self.architecture.unused_positions
        if not unused:
            return weights, config
        return ({**weights, POSITION_EMBEDDING: weights[POSITION_EMBEDDING][:-unused]},
                replace(config, max_seq_length=config.max_seq_length - unused))


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


def open_hugging_face(path: str | os.PathLike) -> HuggingFaceSource:
    """Read and convert a Hugging Face folder or file, under the head that its weights hold.

    Args:
        path: the folder, or the file of its weights.

    Raises:
        UserError: what is missing, damaged, or of no known architecture, in one line.
    """
    path = str(path)
    found = read_hugging_face(path)
    architecture = find_architecture(found, path)
    model = HuggingFaceModel(architecture.tidied(found.weights, found.config, path), found.config)
    return convert_hugging_face(model, architecture, path, fitting_head(model.weights, architecture, model.config))


def convert_hugging_face(model: HuggingFaceModel, architecture: Architecture, path: str, head: str
                         ) -> HuggingFaceSource:
    """A model that was read, its names tidied, converted under a head; errors as `open_hugging_face`."""
    told = {**architecture.read_config(model.config, path), **architecture.read_other_files(folder_of(path))}
    converted = names.from_hugging_face(model.weights, architecture.names, head, path)
    converted.weights.update(architecture.complete(converted.weights))
    architecture.require_sizes(model.config, converted.sizes, path)
    tied = names.is_tied(converted.weights, architecture.names, head, "uer")
    config = architecture.model_config(converted.sizes, None, head, tied, path, told)
    return HuggingFaceSource(path, architecture, head, model, converted, config)


def find_architecture(model: HuggingFaceModel, path: str) -> Architecture:
    """The architecture that config.json names, or else the one that the weights' names belong to.

    Raises:
        UserError: config.json names one that cannot be converted.
    """
    kind = model.config.get("model_type")
    if kind is None:
        return _architecture_of(model.weights) or USUAL
    known = {name: one for name, one in ARCHITECTURES.items() if kind in (one.name, *one.other_types)}
    if not known:
        raise UserError(f"{path}: model_type is {kind}; only {', '.join(ARCHITECTURES)} can be converted")
    return _architecture_of(model.weights, known) or next(iter(known.values()))


def _architecture_of(weights: Mapping[str, Tensor], among: Mapping[str, Architecture] = ARCHITECTURES
                     ) -> Architecture | None:
    """The architecture whose names in Hugging Face these are, or those of the body at least; None where none is."""
    tidied = {name: names.tidy(weights, known.names) for name, known in among.items()}
    whole = [known for name, known in among.items() if names.fits(tidied[name], known.names, "hugging_face")]
    partly = [known for name, known in among.items()
              if names.has_rows(tidied[name], known.names.body, "hugging_face")]
    return next(iter(whole + partly), None)


def fitting_head(weights: Mapping[str, Tensor], architecture: Architecture, config: Mapping[str, Any]) -> str:
    """The head that tidied Hugging Face weights hold, "" for none.

    Where several fit, it is the fine-tuned one whose class config.json names: the output layer of a language model may
    be left out, so that a classifier's weights fit both. Else it is the first of those that pretraining trains.
    """
    fitting = names.fitting_heads(weights, architecture.names, "hugging_face")
    told = [head for head, name in architecture.classes.items()
            if name in class_names(config) and head not in architecture.outputs]
    return next((head for head in (*told, *architecture.outputs, *architecture.classes) if head in fitting), "")


def class_names(config: Mapping[str, Any]) -> list[str]:
    """The classes of transformers that config.json names."""
    told = config.get("architectures")
    return [name for name in told if isinstance(name, str)] if isinstance(told, list) else []


def load_checkpoint(path: str | os.PathLike, say: Callable[[str], object] = logger.warning) -> dict[str, Tensor]:
    """`load_weights` of a checkpoint of UER, earlier names translated into today's (`uer.convert.old_names`).

    Args:
        say: gets a line where names were translated.
    """
    weights = load_weights(path)
    renamed = translated(weights)
    if line := translation_line(weights, renamed, str(path)):
        say(line)
    return renamed


def load_uer_weights(path: str | os.PathLike, say: Callable[[str], object] = logger.warning) -> dict[str, Tensor]:
    """The weights of a UER checkpoint under today's names, those of a Hugging Face model under UER's.

    Args:
        say: as `load_checkpoint`.

    Raises:
        UserError: it cannot be read, or is a Hugging Face model of an unknown architecture.
    """
    if is_hugging_face(path):
        return open_hugging_face(path).converted.weights
    weights = load_checkpoint(path, say)
    require_whole_model(weights, path)
    architecture = _architecture_of(weights)
    if architecture is None:
        return weights
    tidied = architecture.tidied(weights, {}, str(path))
    head = fitting_head(tidied, architecture, {})
    return names.from_hugging_face(tidied, architecture.names, head, str(path)).weights


def checkpoint_config(weights: Mapping[str, Tensor], stages: list[Stage], path: str) -> ModelConfig:
    """The settings of a UER checkpoint, as the files beside it tell, else as its tensors do.

    Args:
        stages: `recorded_stages` of it.

    Raises:
        UserError: nothing is recorded, and its names are of no known architecture, or do not tell its mask, its number
            of heads or of layers; or it is a dual encoder.
    """
    _refuse_dual_encoder(weights, path)
    if stages:
        return stages[0].model()
    architecture = _architecture_of_uer(weights, path)
    return architecture.model_config(names.measure(weights, architecture.names, "uer", path), None, "", False, path)


def _architecture_of_uer(weights: Mapping[str, Tensor], path: str) -> Architecture:
    """The first architecture whose names in UER these are, whatever stands on top.

    Raises:
        UserError: there is none; or it is an encoder that sees all tokens, trained to predict the next.
    """
    known = [one for one in ARCHITECTURES.values() if WORD_EMBEDDING in one.names.body[0].names("uer")]
    found = {one.title: names.misfits(weights, one.names, "uer") for one in known}
    architecture = next((one for one in known if not any(found[one.title])), None)
    need = "no settings lie beside it; give them by --config_path"
    if architecture is None:
        title, (missing, foreign) = min(found.items(), key=lambda item: len(item[1][0]) + len(item[1][1]))
        reasons = [f"{names.some(them)} {'is' if len(them) == 1 else 'are'} {what}"
                   for them, what in ((missing, "missing"), (foreign, "no part of it")) if them]
        raise UserError(f"{path}: its tensors are those of no known architecture; the nearest is {title}: "
                        f"{'; '.join(reasons)}; {need}")
    if architecture is USUAL and any(name.startswith("target.lm.") for name in weights):
        raise UserError(f"{path}: its tensors are those of {architecture.title} with the target lm, whose mask they do "
                        f"not tell; {need}")
    return architecture


def open_checkpoint(path: str | os.PathLike, config: ModelConfig | None) -> tuple[dict[str, Tensor], ModelConfig]:
    """Weights under UER's names, and the settings: `config`, or as the files beside it tell, or as its tensors do.

    Raises:
        UserError: it cannot be read, or nothing tells its settings: see `checkpoint_config`.
    """
    path = str(path)
    if is_hugging_face(path):
        return open_hugging_face(path).usable(config)
    weights = load_uer_weights(path)
    if config is not None:
        return weights, config
    return weights, checkpoint_config(weights, recorded_stages(path), path)


def require_whole_model(weights: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """
    Raises:
        UserError: the weights are adapters, as --lora_save adapter writes them.
    """
    if any(name.endswith(".lora_A") for name in weights):
        raise UserError(f"{path}: holds adapters (LoRA), not a whole model; scripts/merge_lora.py makes one of them")


def vocab_size(weights: Mapping[str, Tensor], path: str) -> int:
    """Rows of the word embedding.

    Raises:
        UserError: there is none, or there are those of a dual encoder.
    """
    _refuse_dual_encoder(weights, path)
    if WORD_EMBEDDING not in weights or weights[WORD_EMBEDDING].dim() != 2:
        raise UserError(f"{path}: has no matrix {WORD_EMBEDDING}; its names are not UER's")
    return len(weights[WORD_EMBEDDING])


def _refuse_dual_encoder(weights: Mapping[str, Tensor], path: str) -> None:
    if any(name.startswith("encoder.encoder_") for name in weights):
        raise UserError(f"{path}: a dual encoder, where one encoder is needed: give the folder that "
                        "scripts/convert_sbert_from_uer_to_huggingface.py makes of its first")
