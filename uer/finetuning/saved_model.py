"""A fine-tuned model on disk: weights, settings, vocabulary, so that inference needs nothing else.

    finetuned_model.bin          weights, UER's names; loads anywhere
    finetuned_model.json         task, labels, model, tokenizer, seq_length, truncation, how it was trained
    finetuned_model.vocab.txt    the vocabulary

`path` may be the weights file or, where it ends with a slash or is a folder, a folder: then the files in it are called
model.bin, model.json and model.vocab.txt.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from uer import sections
from uer.backbone import Backbone
from uer.checkpoint.files import load_into, save_weights
from uer.config import ModelConfig, model_values
from uer.convert.hugging_face_files import weights_files, write_json
from uer.convert.open import load_checkpoint, load_uer_weights
from uer.errors import UserError
from uer.files import atomic_path
from uer.finetuning.config import TRUNCATIONS
from uer.finetuning.labels import shorten
from uer.finetuning.paths import settings_path, vocab_path, weights_path
from uer.finetuning.readers import file_hash, read_json
from uer.finetuning.task import Task, TextToRows
from uer.json_files import json_text, read_json_object
from uer.layers.lora import is_adapter, merged
from uer.lora import recorded_alpha, require_pairs
from uer.registry import choose
from uer.sizes import check_sizes
from uer.tokenizers import TOKENIZERS
from uer.tokenizers.vocab import Vocab, read_entries

FORMAT = "uer-finetuned"
VERSION = 1
# Parts of a pretrained model that a fine-tuned one has as well; what is outside them is the head.
BACKBONE = ("embedding.", "encoder.")
LEAST_LENGTH = 4


@dataclass(frozen=True)
class SavedModel:
    """Holds what the settings file says."""

    weights_path: Path
    task: str
    task_settings: dict[str, Any]
    model: ModelConfig
    encoder: TextToRows


def save_finetuned(path: str | os.PathLike, state: Mapping[str, Tensor], task: Task, model: ModelConfig,
                   encoder: TextToRows, training: dict[str, Any]) -> None:
    """Write the three files, each whole or not at all, the weights last.

    Args:
        training: how the model was trained (settings, metrics); plain JSON. Inference does not need it.
    """
    weights = weights_path(path)
    tokenizer, vocabulary = encoder.tokenizer, vocab_path(path)
    with atomic_path(vocabulary) as temporary:
        temporary.write_text("".join(f"{token}\n" for token in tokenizer.vocab.tokens), encoding="utf-8", newline="\n")
    settings = {
        "format": FORMAT, "version": VERSION, "task": task.name, **task.settings(),
        "seq_length": encoder.seq_length, "truncation": encoder.truncation,
        "tokenizer": {"tokenizer": tokenizer.kind, **tokenizer.saved_settings(),
                      "vocab_path": vocabulary.name, "special_tokens": tokenizer.vocab.special_tokens},
        "model": model.values(), "training": training}
    with atomic_path(settings_path(path)) as temporary:
        temporary.write_text(json_text(settings, indent=2) + "\n", encoding="utf-8")
    save_weights(state, weights)


def load_settings(path: str | os.PathLike) -> SavedModel | None:
    """Read the settings beside a fine-tuned model; None if there are none (weights that UER-py saved).

    Raises:
        UserError: the settings file is not ours or is damaged.
    """
    weights, settings = weights_path(path), settings_path(path)
    if not settings.exists():
        return None
    content = read_json_object(settings)
    if content.get("format") != FORMAT:
        raise UserError(f"{settings}: not the settings of a fine-tuned model")
    if content.get("version") != VERSION:
        raise UserError(f"{settings}: version {content.get('version')}; this program reads version {VERSION}")
    try:
        tokenizer = content["tokenizer"]
        kind = choose(TOKENIZERS, tokenizer["tokenizer"], str(settings))
        vocab = Vocab(read_entries(vocab_beside(path, content)), tokenizer["special_tokens"], str(settings),
                      kind.default_special_tokens)
        _check_settings(content, settings)
        encoder = TextToRows(kind.from_saved(vocab, tokenizer), content["seq_length"], content["truncation"])
        described = content["model"]
        model = sections.from_json(ModelConfig, model_values(described) if isinstance(described, dict) else described,
                              str(settings))
        return SavedModel(weights, content["task"], content, model, encoder)
    except KeyError as error:
        raise UserError(f"{settings}: damaged settings: no {error}") from None
    except (TypeError, AttributeError) as error:
        raise UserError(f"{settings}: damaged settings: {error}") from None


def is_finetuned(path: str | os.PathLike) -> bool:
    """Whether the settings of a fine-tuned model are beside the weights; other JSON files may have the same name."""
    settings = settings_path(path)
    if not settings.is_file():
        return False
    content = read_json(str(settings))
    return isinstance(content, dict) and "format" in content


def vocab_beside(path: str | os.PathLike, content: Mapping[str, Any]) -> Path:
    """The vocabulary that the content of a settings file names, or that of the weights' name, where all three files
    were renamed."""
    named = settings_path(path).parent / content["tokenizer"]["vocab_path"]
    return named if named.exists() else vocab_path(path)


def with_vocab(content: Mapping[str, Any], path: str | os.PathLike) -> dict[str, Any]:
    """The content of a settings file for weights at `path`: it names the vocabulary beside them."""
    return {**content, "tokenizer": {**content["tokenizer"], "vocab_path": vocab_path(path).name}}


def write_beside(content: Mapping[str, Any], source: str | os.PathLike, path: str | os.PathLike) -> None:
    """Write settings beside weights at `path`, and the vocabulary that they name beside the weights at `source`."""
    if "tokenizer" in content:
        with atomic_path(vocab_path(path)) as temporary:
            shutil.copyfile(vocab_beside(source, content), temporary)
        content = with_vocab(content, path)
    with atomic_path(settings_path(path)) as temporary:
        write_json(content, temporary)


def task_of(saved: SavedModel, task_class: type[Task]) -> Task:
    """Create the task that the settings describe.

    Raises:
        UserError: the settings lack something that this kind of task needs.
    """
    try:
        return task_class.from_settings(saved.task_settings)
    except (KeyError, TypeError) as error:
        raise UserError(f"{settings_path(saved.weights_path)}: damaged settings: {error}") from None


def _check_settings(content: dict[str, Any], path: Path) -> None:
    """
    Raises:
        UserError: a value is not what `save_finetuned` writes there.
    """
    damaged = f"{path}: damaged settings"
    seq_length, labels = content["seq_length"], content.get("labels")
    if type(seq_length) is not int or seq_length < LEAST_LENGTH:
        raise UserError(f"{damaged}: seq_length must be a whole number of at least {LEAST_LENGTH}, not {seq_length}")
    for name in ("choices_num", "doc_stride", "max_answer_length"):
        if name in content and (type(content[name]) is not int or content[name] < 1):
            raise UserError(f"{damaged}: {name} must be a whole number of at least 1, not {content[name]}")
    if content["truncation"] not in TRUNCATIONS:
        raise UserError(f"{damaged}: truncation must be one of {', '.join(TRUNCATIONS)}, not {content['truncation']}")
    if type(content["tokenizer"]["do_lower_case"]) is not bool:
        raise UserError(f"{damaged}: do_lower_case must be true or false")
    if labels is not None and not (isinstance(labels, list) and labels
                                   and all(isinstance(label, str) for label in labels)
                                   and len(set(labels)) == len(labels)):
        raise UserError(f"{damaged}: labels must be a list of different strings, not {shorten([str(labels)])}")


def load_finetuned(model: nn.Module, task: Task, path: str | os.PathLike) -> None:
    """Fill `model` with the fine-tuned weights at `path`; every parameter must be there.

    Raises:
        UserError: the file holds a pretrained model without this task's head, or a model of another size.
    """
    weights = weights_path(path)
    state = task.our_names(load_checkpoint(weights))
    if any(map(is_adapter, state)):
        require_pairs(state, weights)
        base = _in_streams_of(model, _recorded_base(weights))
        backbone = {name: tensor for name, tensor in base.items() if task.has_target or name.startswith(BACKBONE)}
        state = merged({**backbone, **state}, recorded_alpha(training_of(weights), None, str(weights)))
    require_finetuned(state, task, weights)
    _refuse_second_layer_norm(state, weights)
    absent = [name for name in head_names(model) if name not in state]
    if absent:
        raise UserError(f"{weights}: not a fine-tuned model of the task '{task.name}': it has no {absent[0]}")
    report = load_into(model, state, weights)
    if report.other_shape:
        raise UserError(_other_shape(weights, report.other_shape))
    if report.missing:
        raise UserError(f"{weights}: {len(report.missing)} parameters are missing: {shorten(report.missing, 3)}")


def head_names(model: nn.Module) -> list[str]:
    """Names of the parameters that are not in the embedding or the encoder."""
    return [name for name in model.state_dict() if not name.startswith(BACKBONE)]


def require_finetuned(state: Mapping[str, Tensor], task: Task | type[Task], path: str | os.PathLike) -> None:
    """
    Raises:
        UserError: the weights are those of a pretrained model, which has targets and no head.
    """
    if not task.has_target and any(name.startswith("target.") for name in state):
        raise UserError(f"{path}: not a fine-tuned model of the task '{task.name}': it is a pretrained model: "
                        "fine-tune it first")


def load_pretrained(model: Backbone, path: str | os.PathLike, config_path: str) -> tuple[list[str], list[str]]:
    """Load pretrained weights into a model's embedding and encoder, and into its head if the file has the same names.

    The weights are those of a UER checkpoint, or of a Hugging Face folder or file. Those of a single encoder fill both
    streams of a dual encoder.

    Args:
        config_path: the file of the model's settings, for the message.

    Returns:
        Lines for the log (whether names were translated, which parameters of the file are not used, and which of the
        model stay random), and the names of those that stay random.

    Raises:
        UserError: a parameter of the embedding or the encoder is missing or of another size.
    """
    lines: list[str] = []
    state = load_uer_weights(path, lines.append)
    _refuse_second_layer_norm(state, path)
    if not _has_streams(state):
        for stream in range(model.encoder.streams):
            check_sizes(state, model.config.stream(stream), model.vocab_size, path, config_path)
    state = _in_streams_of(model, state)
    report = load_into(model, state, path)
    if report.other_shape:
        raise UserError(_other_shape(path, report.other_shape))
    absent = [name for name in report.missing if name.startswith(BACKBONE)]
    if absent:
        raise UserError(f"{path}: {len(absent)} parameters of the embedding and encoder are missing: "
                        f"{shorten(absent, 3)}; does --config_path fit this model?")
    deeper = [name for name in report.left_over if name.startswith(BACKBONE)]
    if deeper:
        raise UserError(f"{path}: this model has no parameters for {len(deeper)} of the file's embedding and encoder: "
                        f"{shorten(deeper, 3)}; does --config_path fit this model?")
    if report.left_over:
        heads = sorted({".".join(name.split(".")[:2]) for name in report.left_over})
        lines.append(f"{path}: {len(report.left_over)} parameters are not used: {shorten(heads)}")
    if report.missing:
        lines.append(f"{path}: new parameters, random at the start: {shorten(report.missing)}")
    return lines, report.missing


def training_of(path: str | os.PathLike) -> dict[str, Any]:
    """How a fine-tuned model was trained, as its settings file tells; {} without one."""
    settings = settings_path(path)
    return read_json_object(settings).get("training", {}) if settings.is_file() else {}


def _recorded_base(weights: Path) -> Mapping[str, Tensor]:
    """The weights that a fine-tuned model's adapters belong to.

    Raises:
        UserError: they are not where they were, or are others.
    """
    training = training_of(weights)
    base, known = training.get("pretrained_model_path"), training.get("lora", {}).get("pretrained_hash")
    if not base or not os.path.exists(base):
        raise UserError(f"{weights}: holds adapters (LoRA) of {base or 'a model that nothing beside it names'}, which "
                        "is not there; scripts/merge_lora.py joins them to the model you name")
    if known and not pretrained_hash(base).startswith(known):
        raise UserError(f"{weights}: holds adapters (LoRA) of {base}, which has changed since")
    return load_uer_weights(base)


def _has_streams(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("encoder.encoder_") for name in state)


def _in_streams_of(model: Backbone, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights as a model has them: those of a single encoder for both streams of a dual encoder."""
    return _in_both_streams(state) if model.encoder.streams > 1 and not _has_streams(state) else state


def _in_both_streams(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a single encoder for both streams of a dual encoder.

        embedding.word.embedding.weight  ->  embedding.dual.embedding_0.word.embedding.weight
                                             embedding.dual.embedding_1.word.embedding.weight
    """
    found = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        streams = {"embedding": "embedding.dual.embedding_{}.", "encoder": "encoder.encoder_{}."}.get(part)
        found |= {streams.format(n) + rest: tensor for n in (0, 1)} if streams else {name: tensor}
    return found


def _refuse_second_layer_norm(state: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """
    Raises:
        UserError: the weights are those of a dual embedding as UER-py has it since July 2023, with a layer norm after
            the layer norm of each stream; without it, the model would compute something else.
    """
    second = [name for name in state if name.startswith("embedding.dual.stream_")]
    if second:
        raise UserError(f"{path}: was trained by a version of UER-py whose dual embedding has a second layer norm "
                        f"({second[0]}), which no model here has: fine-tune from the single encoder's model again")


def pretrained_hash(path: str) -> str:
    """SHA-256 of the weights at --pretrained_model_path; of a model in several files, of their hashes."""
    hashes = [file_hash(str(file)) for file in weights_files(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _other_shape(path: str | os.PathLike, found: list[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> str:
    name, theirs, ours = found[0]
    return (f"{path}: a model of another size: {name} is {list(theirs)} in the file and {list(ours)} here"
            f"{f' ({len(found) - 1} more differ)' if len(found) > 1 else ''}; does --config_path fit this model?")
