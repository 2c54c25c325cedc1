"""From Hugging Face to UER. What the scripts of that direction share; not a command."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import _logits_check as check
import torch
from _conversion import (
    choose_type,
    print_model,
    require_class,
    require_known_names,
    require_layers,
    resolve_head,
)

from uer.checkpoint.files import save_weights
from uer.config import flag
from uer.convert import Architecture
from uer.convert.folder import with_copies
from uer.convert.hugging_face_files import FOLDER_FILES, HuggingFaceModel, read_hugging_face, write_json
from uer.convert.open import HuggingFaceSource, convert_hugging_face, folder_of
from uer.convert.settings import labels_of
from uer.convert.tokenizer_files import cutting, divided_tokens, read_tokenizer, read_tokens
from uer.errors import UserError
from uer.files import atomic_path
from uer.finetuning.hugging_face import HEAD_TASKS, task_of_head
from uer.finetuning.paths import model_files
from uer.finetuning.saved_model import save_finetuned
from uer.finetuning.task import Task, TextToRows
from uer.paths import File
from uer.runtime.lock import OutputLock


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
        folder = folder_of(self.input_model_path)
        return [File("--input_model_path", str(folder / name)) for name in FOLDER_FILES]


@dataclass(frozen=True)
class DecoderImportFlags(ImportFlags):
    """From Hugging Face to UER, of a model with a decoder."""

    decoder_layers_num: int | None = flag(None, "Layers of the decoder; read from the weights, and an error if it "
                                                "differs.")


@dataclass(frozen=True)
class FinetunedImportFlags(ImportFlags):
    """From Hugging Face to UER, with the settings and the vocabulary of a fine-tuned model."""

    def writes(self) -> list[File]:
        """The files beside the weights."""
        return [File("--output_model_path", str(path)) for path in model_files(self.output_model_path)[1:]]


def import_model(architecture: Architecture | Mapping[str, Architecture], flags: ImportFlags, head: str | None) -> None:
    """Convert from Hugging Face to UER, check, and only then put the files in place.

    Args:
        architecture: which kind of model it is; or several kinds, of which `head` names one, or None the one that fits.
        flags: where it is, and where it goes.
        head: a key of `architecture.classes`; None is the pretrained head that the weights hold.

    Raises:
        UserError: whatever is wrong with the input, or logits that differ; nothing is written then.
    """
    with OutputLock(flags.output_model_path):
        _import_model(architecture, flags, head)


def _import_model(architecture: Architecture | Mapping[str, Architecture], flags: ImportFlags, head: str | None
                  ) -> None:
    path = flags.input_model_path
    found = read_hugging_face(path)
    if isinstance(architecture, Mapping):
        architecture, head = choose_type(architecture, head, found.weights, "hugging_face", path), None
    architecture.read_config(found.config, path)  # says first that a model is of another architecture
    model = HuggingFaceModel(architecture.tidied(found.weights, found.config, path), found.config)
    if head not in HEAD_TASKS:
        head = resolve_head(head, model.weights, architecture, "hugging_face", path)
    require_class(found.config, architecture, head, path)
    source = convert_hugging_face(model, architecture, path, head)
    require_known_names(source.converted.left_out, "hugging_face", path)
    require_layers(flags, source.config.layers_num, source.config.decoder_layers_num, path)
    print_model(path, source.config, source.converted, head)
    if not flags.no_check:
        _check(source)
    write_model(flags, source)


def _check(source: HuggingFaceSource) -> None:
    config, architecture, vocab_size = source.config, source.architecture, source.converted.sizes["vocab"]
    content, computed = source.model.config, architecture.computed(config)
    rounded = any(tensor.dtype != torch.float32 for tensor in source.model.weights.values())
    if Path(source.path).is_dir() and content and not (computed and rounded):
        theirs = check.open_any_folder(Path(source.path), architecture, source.head, source.model.weights)
    else:
        content = architecture.config_json(config, vocab_size, source.head,
                                           labels=labels_of({}, source.converted.sizes.get("labels", 0), source.path))
        weights = {name: tensor for name, tensor in source.model.weights.items()
                   if name not in source.converted.left_out} | computed
        weights |= architecture.arranged(weights, config)
        if not config.tie_weights or architecture.has_decoder:
            weights = with_copies(weights, architecture.names)
        theirs = check.open_weights(weights, content, architecture, source.head)
    src, seg = check.batch_of(architecture, source.head, vocab_size, config.max_seq_length, None, theirs)
    model = check.UerModel(source.path, architecture, source.head, config, source.converted.weights,
                           source.converted.sizes, content)
    print(f"checked: {check.require_equal(model, check.their_logits(theirs, architecture, src, seg), src, seg)}")


def write_model(flags: ImportFlags, source: HuggingFaceSource) -> None:
    """Put the files in place: weights, and where flags name them settings and vocabulary.

    Raises:
        UserError: the vocabulary is not beside the weights, or that of a fine-tuned model does not fit them.
    """
    head, config = source.head, source.config
    tokens = read_tokens(source.folder, source.converted.sizes["vocab"]) if flags.output_vocab_path else []
    finetuned = _finetuned(source) if head in HEAD_TASKS else None
    if flags.output_vocab_path:
        with atomic_path(flags.output_vocab_path) as temporary:
            temporary.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
        print(f"written: {flags.output_vocab_path}")
    if flags.output_config_path:
        with atomic_path(flags.output_config_path) as temporary:
            write_json(source.architecture.settings_json(config), temporary)
        print(f"written: {flags.output_config_path}")
    if finetuned:
        task, encoder = finetuned
        save_finetuned(flags.output_model_path, source.converted.weights, task, config, encoder,
                       {"converted_from": Path(source.path).name})
    else:
        save_weights(source.converted.weights, flags.output_model_path)
    print(f"written: {flags.output_model_path}")
    if "embedding.seg.embedding.weight" in source.converted.weights:
        print("the segment embedding has a new first row, zeros, which belongs to padding and is never read")
    if source.architecture.segments == 1:
        print("its last row, of a second text, equals that of the first: the original tells texts apart by tokens only")
    if source.architecture.unused_positions:
        print(f"the last {source.architecture.unused_positions} rows of the position embedding are zeros: sequences "
              f"have at most {config.max_seq_length - source.architecture.unused_positions} tokens")
    if not finetuned and not config.tie_weights:
        print("the output layer has weights of its own: the model's settings need tie_weights false")
    if not finetuned and config.layernorm_eps is not None:
        print(f"the layer norms have an epsilon of their own: the model's settings need layernorm_eps "
              f"{config.layernorm_eps:g}")


def _finetuned(source: HuggingFaceSource) -> tuple[Task, TextToRows]:
    """The task of a fine-tuned model, and how its texts become rows; errors as `write_model` and `task_of_head`."""
    size = source.converted.sizes["vocab"]
    tokenizer = read_tokenizer(source.folder, size)
    if len(tokenizer.vocab) != size:
        raise UserError(f"{source.folder}: its vocabulary has {len(tokenizer.vocab)} entries, its weights {size}")
    if line := divided_tokens(source.folder, tokenizer):
        print(line)
    longest = source.config.max_seq_length - source.architecture.unused_positions
    return (task_of_head(source.head, source.converted.sizes, source.model.config, source.path),
            TextToRows(tokenizer, *cutting(source.folder, longest)))
