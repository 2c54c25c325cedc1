"""The way of a BERT from Hugging Face to UER. What the scripts of that direction share; not a command."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _logits_check as check
from _conversion import PROBLEM_TYPES, TARGETS, TASKS, print_model, require_layers, require_type

from uer.config import ModelConfig, flag
from uer.convert import BERT, bert, names
from uer.convert.files import FOLDER_FILES, HuggingFaceModel, read_hugging_face, read_json, write_json
from uer.convert.tokenizer_files import read_tokens
from uer.errors import UserError
from uer.files import atomic_path
from uer.finetuning.paths import model_files
from uer.finetuning.saved import save_finetuned
from uer.finetuning.task import Task, TextEncoder
from uer.lock import OutputLock
from uer.paths import File
from uer.tokenizers import BertTokenizer, Vocab
from uer.tokenizers.vocab import read_special_tokens
from uer.training.checkpoint import save_weights


@dataclass(frozen=True)
class ImportFlags:
    """From Hugging Face to UER."""

    input_model_path: str = flag("models/input_model.bin", "Hugging Face model: folder, .safetensors or .bin file.",
                                 path="read")
    output_model_path: str = flag("models/output_model.bin", "Where the UER checkpoint is written.", path="write")
    layers_num: int | None = flag(None, "Layers of the model; read from the weights, and an error if it differs.")
    output_config_path: str | None = flag(None, "Where to write the model's settings for --config_path.", path="write")
    output_vocab_path: str | None = flag(None, "Where to write the vocabulary for --vocab_path.", path="write")
    no_check: bool = flag(False, "Do not compare the logits with those of transformers.")

    def reads(self) -> list[File]:
        """The configuration and the vocabulary beside the weights."""
        folder = _folder_of(self.input_model_path)
        return [File("--input_model_path", str(folder / name)) for name in FOLDER_FILES]


@dataclass(frozen=True)
class FinetunedImportFlags(ImportFlags):
    """From Hugging Face to UER, with the settings and the vocabulary of a fine-tuned model."""

    def writes(self) -> list[File]:
        """The files beside the weights."""
        return [File("--output_model_path", str(path)) for path in model_files(self.output_model_path)[1:]]


def bring_back(flags: ImportFlags, head: str) -> None:
    """Convert from Hugging Face to UER, check, and only then put the files in place.

    Raises:
        UserError: whatever is wrong with the input, or logits that differ; nothing is written then.
    """
    with OutputLock(flags.output_model_path):
        _bring_back(flags, head)


def _bring_back(flags: ImportFlags, head: str) -> None:
    path = flags.input_model_path
    model = read_hugging_face(path)
    told = bert.from_hugging_face_config(model.config, path)
    require_type(model.weights, head, "hugging_face", path)
    converted = names.from_hugging_face(model.weights, BERT, head, path)
    bert.require_sizes(model.config, converted.sizes, path)
    require_layers(flags.layers_num, converted.sizes["layers"], path)
    tied = all(names.is_tied(converted.weights, row, "uer", BERT) for row in BERT.heads[head] if row.tied_to)
    config = bert.model_config(converted.sizes, None, TARGETS.get(head, ("mlm",)), tied, path, told)
    print_model(path, config, converted, head)
    if not flags.no_check:
        _check_back(path, model, head, config, converted)
    _write_back(flags, head, config, converted, model)


def _check_back(path: str, model: HuggingFaceModel, head: str, config: ModelConfig,
                converted: names.Conversion) -> None:
    vocab_size = converted.sizes["vocab"]
    if Path(path).is_dir() and model.config:
        theirs = check.open_any_folder(Path(path), head)
    else:
        content = bert.hugging_face_config(config, vocab_size, head, tied=config.tie_weights,
                                           labels=("",) * converted.sizes.get("labels", 0))
        tidied = names.tidy(model.weights, BERT)
        theirs = check.open_weights({name: tensor for name, tensor in tidied.items() if name not in converted.left_out},
                                    content, head)
    src, seg = check.sample_batch(vocab_size, config.max_seq_length, None)
    ours = check.our_logits(config, vocab_size, converted.weights, head, src, seg)
    print(f"checked: {check.require_equal(ours, check.their_logits(theirs, src, seg), seg, path)}")


def _write_back(flags: ImportFlags, head: str, config: ModelConfig, converted: names.Conversion,
                model: HuggingFaceModel) -> None:
    if flags.output_vocab_path:
        tokens = read_tokens(_folder_of(flags.input_model_path))
        with atomic_path(flags.output_vocab_path) as temporary:
            temporary.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
        print(f"written: {flags.output_vocab_path}")
    if flags.output_config_path:
        with atomic_path(flags.output_config_path) as temporary:
            write_json(dataclasses.asdict(config), temporary)
        print(f"written: {flags.output_config_path}")
    if head in TASKS:
        _write_finetuned(flags, head, config, converted, model)
    else:
        save_weights(converted.weights, flags.output_model_path)
    print(f"written: {flags.output_model_path}")
    print("the segment embedding has a new first row, zeros, which belongs to padding and is never read")
    if head not in TASKS and not config.tie_weights:
        print("the output layer has weights of its own: the model's settings need tie_weights false")


def _write_finetuned(flags: ImportFlags, head: str, config: ModelConfig, converted: names.Conversion,
                     model: HuggingFaceModel) -> None:
    """The weights with the settings that the inference scripts read: labels, tokenizer, architecture.

    Raises:
        UserError: the vocabulary is not beside the weights, or does not fit them.
    """
    folder, size = _folder_of(flags.input_model_path), converted.sizes["vocab"]
    vocab = Vocab(read_tokens(folder), read_special_tokens(folder / "special_tokens_map.json"), str(folder))
    if len(vocab) != size:
        raise UserError(f"{folder}: its vocabulary has {len(vocab)} entries, its weights {size}")
    settings = folder / "tokenizer_config.json"
    lower = read_json(settings).get("do_lower_case", True) if settings.is_file() else True
    encoder = TextEncoder(BertTokenizer(vocab, lower), min(128, config.max_seq_length))
    labels = bert.labels_of(model.config, converted.sizes.get("labels", 0), flags.input_model_path)
    task = _task(head, labels, model.config, flags.input_model_path)
    save_finetuned(flags.output_model_path, converted.weights, task, config, encoder,
                   {"converted_from": Path(flags.input_model_path).name})


def _task(head: str, labels: tuple[str, ...], their_config: Mapping[str, Any], path: str) -> Task:
    """The task of a model from Hugging Face: the one that its problem_type names, or the head's usual one."""
    wanted = their_config.get("problem_type") or PROBLEM_TYPES["regression" if len(labels) == 1 else "classifier"]
    fitting = [task for task in TASKS[head] if len(TASKS[head]) == 1 or PROBLEM_TYPES[task.name] == wanted]
    if not fitting:
        raise UserError(f"{path}: problem_type {wanted} is unknown; choose from: {', '.join(PROBLEM_TYPES.values())}")
    chosen = fitting[0]
    return chosen.from_settings({"labels": list(labels)}) if labels else chosen.of_labels_num(None)


def _folder_of(path: str) -> Path:
    return Path(path) if Path(path).is_dir() else Path(path).parent
