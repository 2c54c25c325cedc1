"""From UER to Hugging Face. What the scripts of that direction share; not a command."""

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import _logits_check as check
import _push
import torch
from _checkpoint import DEFAULT_VOCAB
from _conversion import (
    choose_type,
    print_model,
    require_known_names,
    require_layers,
    resolve_head,
)
from torch import Tensor

from uer.checkpoint.files import load_weights, save_weights
from uer.config import LONGEST_ROW, ModelConfig, TokenizerConfig, flag
from uer.convert import Architecture, names
from uer.convert.folder import with_copies, write_folder
from uer.convert.hugging_face_files import FOLDER_FILES, WEIGHT_FILES, WRITTEN_WEIGHTS, bytes_of, write_json
from uer.convert.model_card import ModelCardFacts, model_card
from uer.convert.open import load_checkpoint, require_whole_model
from uer.convert.provenance import Stage, record_names, recorded_stages, require_vocabulary
from uer.errors import UserError
from uer.files import atomic_folder, atomic_path
from uer.finetuning.hugging_face import HEAD_TASKS, PROBLEM_TYPES
from uer.finetuning.paths import model_files, weights_path
from uer.finetuning.saved_model import SavedModel, is_finetuned, load_settings
from uer.model_settings import model_settings
from uer.paths import File, existing
from uer.runtime.lock import OutputLock
from uer.tokenizers import Tokenizer, build_tokenizer
from uer.tokenizers.characters import is_ideograph

# What the settings of a fine-tuned model record, and what a model card calls it.
FINE_TUNING = {"epochs_num": "Epochs", "best_epoch": "Best epoch", "batch_size": "Batch size",
               "learning_rate": "Peak learning rate", "seed": "Seed", "train_hash": "Hash of the training file",
               "dev_hash": "Hash of the dev file", "converted_from": "Converted from"}

# Files of an earlier export that are removed where the new one has none of the name: transformers would read them.
REPLACED_FILES = {*FOLDER_FILES} - {*WEIGHT_FILES, "README.md"}


@dataclass(frozen=True)
class ExportFlags:
    """From UER to Hugging Face."""

    input_model_path: str = flag("models/input_model.bin", "UER checkpoint: weights as <output_model_path>-<step>.",
                                 path="read")
    output_model_path: str | None = flag(None, "Where the weights alone are written, with Hugging Face's names "
                                               "(default: pytorch_model.bin, unless --output_dir is given).",
                                               path="write")
    output_dir: str | None = flag(None, "Folder for the whole model: config, model.safetensors, tokenizer, model card.",
                                  path="write_folder")
    layers_num: int | None = flag(None, "Layers of the model; read from the checkpoint, and an error if it differs.")
    vocab_path: str | None = flag(None, f"Vocabulary of the model (default: {DEFAULT_VOCAB}).", path="read")
    do_lower_case: bool | None = flag(None, "Lower-case the text and strip accents (default: true).")
    config_path: str | None = flag(None, "JSON file of the model's settings; needed where heads are not "
                                         "hidden / 64, or the activation is not gelu.", path="read")
    card_notes_path: str | None = flag(None, "Markdown about corpus and training for the model card of --output_dir.",
                                       path="read")
    max_shard_size: str = flag("", "Divide the weights of --output_dir into files of at most this size, such as 5GB.")
    no_check: bool = flag(False, "Do not compare the logits with those of transformers.")
    push_to_hub: str | None = flag(None, "Send the folder of --output_dir to this model on the Hugging Face hub, such "
                                         "as user/model.")
    private: bool = flag(False, "With --push_to_hub: a model that is new there is private.")
    push_dry_run: bool = flag(False, "With --push_to_hub: only list the files that would be sent.")

    def problems(self) -> list[str]:
        try:
            bytes_of(self.max_shard_size, "--max_shard_size")
        except UserError as error:
            return [str(error), *_push.problems(self)]
        return _push.problems(self)

    def tokenizer_config(self) -> TokenizerConfig:
        """The tokenizer that the model was trained with."""
        lower = self.do_lower_case is not False
        return TokenizerConfig(vocab_path=self.vocab_path or DEFAULT_VOCAB, do_lower_case=lower)

    def reads(self) -> list[File]:
        """What lies beside the checkpoint (settings, vocabulary, training state), and the usual vocabulary."""
        beside = existing(Path(self.input_model_path).parent, record_names(self.input_model_path))
        files = [*model_files(self.input_model_path), *beside, *([] if self.vocab_path else [Path(DEFAULT_VOCAB)])]
        return [File("--input_model_path", str(path)) for path in files]

    def writes(self) -> list[File]:
        """The files of the folder; the weights alone, where no output is named."""
        if not self.output_dir:
            return [] if self.output_model_path else [File("--output_model_path", "pytorch_model.bin")]
        return [File("--output_dir", str(Path(self.output_dir) / name)) for name in FOLDER_FILES]

    def settings(self) -> dict[str, Any]:
        """Settings of the model that flags of a script give, under UER's names."""
        given = getattr(self, "max_seq_length", None)
        return {} if given is None else {"max_seq_length": given}


@dataclass(frozen=True)
class DecoderExportFlags(ExportFlags):
    """From UER to Hugging Face, of a model with a decoder."""

    decoder_layers_num: int | None = flag(None, "Layers of the decoder; read from the checkpoint, and an error if it "
                                                "differs.")

    def problems(self) -> list[str]:
        """A line for each value out of its range."""
        within = 1 <= self.settings().get("max_seq_length", 1) <= LONGEST_ROW
        found = [] if within else [f"--max_seq_length must lie between 1 and {LONGEST_ROW:,}"]
        return [*super().problems(), *found]


@dataclass(frozen=True)
class BpeExportFlags(ExportFlags):
    """From UER to Hugging Face, of a model whose tokenizer may be byte-level BPE."""

    merges_path: str | None = flag(None, "Merges file of a model of --tokenizer bpe; --vocab_path is its vocabulary.",
                                   path="read")

    def tokenizer_config(self) -> TokenizerConfig:
        usual = super().tokenizer_config()
        return replace(usual, tokenizer="bpe", merges_path=self.merges_path) if self.merges_path else usual


@dataclass(frozen=True)
class QwenExportFlags(ExportFlags):
    """From UER to Hugging Face, of a model whose tokenizer may be Qwen's or GPT-2's byte-level BPE."""

    merges_path: str | None = flag(None, "Merges file of a model of --tokenizer qwen or bpe; --vocab_path is its "
                                         "vocabulary.", path="read")
    tokenizer: str = flag("qwen", "With --merges_path: the tokenizer that the model was trained with.",
                          choices=("qwen", "bpe"))

    def tokenizer_config(self) -> TokenizerConfig:
        usual = super().tokenizer_config()
        return replace(usual, tokenizer=self.tokenizer, merges_path=self.merges_path) if self.merges_path else usual


@dataclass(frozen=True)
class SentencePieceExportFlags(ExportFlags):
    """From UER to Hugging Face, of a model whose tokenizer is a SentencePiece model."""

    spm_model_path: str | None = flag(None, "SentencePiece model of --tokenizer xlmroberta; --output_dir needs it.",
                                      path="read")

    def tokenizer_config(self) -> TokenizerConfig:
        return TokenizerConfig(tokenizer="xlmroberta", spm_model_path=self.spm_model_path)


@dataclass(frozen=True)
class Source:
    """A UER checkpoint and what is known of it; `head` is a key of `architecture.classes`."""

    path: str
    architecture: Architecture
    head: str
    weights: Mapping[str, Tensor]
    converted: names.Conversion
    config: ModelConfig
    tokenizer: TokenizerConfig
    saved: SavedModel | None = None
    labels: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    card_notes: str = ""

    @property
    def vocab_size(self) -> int:
        """Rows of the word embedding."""
        return self.converted.sizes["vocab"]

    @property
    def longest(self) -> int:
        """The longest sequence that transformers' model takes."""
        return self.config.max_seq_length - self.architecture.unused_positions

    @property
    def seq_length(self) -> int:
        """The length to which texts are cut: that of fine-tuning, else as long as the model takes."""
        return min(self.saved.encoder.seq_length, self.longest) if self.saved else self.longest


def export(architecture: Architecture | Mapping[str, Architecture], flags: ExportFlags, head: str | None) -> None:
    """Convert, check, and only then put the files in place.

    Args:
        architecture: which kind of model it is; or several kinds, of which `head` names one, or None the one that fits.
        flags: where it is, and where it goes.
        head: a key of `architecture.classes`; None is the pretrained head that the weights hold.

    Raises:
        UserError: whatever is wrong with the input, or logits that differ; nothing is written then.
    """
    with contextlib.ExitStack() as locks:
        for path, flag_name in ((flags.output_dir, "--output_dir"), (flags.output_model_path, "--output_model_path")):
            if path:
                locks.enter_context(OutputLock(path, flag_name))
        _export(architecture, flags, head)


def _export(architecture: Architecture | Mapping[str, Architecture], flags: ExportFlags, head: str | None) -> None:
    if flags.push_to_hub and not flags.push_dry_run:
        _push.require_hub()
    source = read_source(architecture, flags, head)
    print_model(source.path, source.config, source.converted, source.head)
    for beginning, note in source.architecture.notes.items():
        if any(name.startswith(beginning) for name in source.converted.left_out):
            print(note)
    if unused := source.architecture.unused_positions:
        print(f"the last {unused} rows of the position embedding have no position in Hugging Face's model: sequences "
              f"have at most {source.longest} tokens")
    if flags.output_dir:
        name = flags.push_to_hub or Path(flags.output_dir).absolute().name
        files = _export_folder(source, flags.output_dir, name, not flags.no_check, flags.max_shard_size)
    if flags.output_model_path or not flags.output_dir:
        _export_weights(source, flags.output_model_path or "pytorch_model.bin", not flags.no_check)
    if flags.output_dir and flags.push_to_hub:
        _push.push(flags.output_dir, files, flags.push_to_hub, flags.private, flags.push_dry_run)


def read_source(architecture: Architecture | Mapping[str, Architecture], flags: ExportFlags, head: str | None
                ) -> Source:
    """The checkpoint, converted, with its settings: of --config_path, of files beside it, or as its tensors tell."""
    finetuned = head in HEAD_TASKS or is_finetuned(flags.input_model_path)
    saved = load_settings(flags.input_model_path) if finetuned else None
    known = [task.name for task in HEAD_TASKS.get(head, ())]
    if saved and known and saved.task not in known:
        raise UserError(f"{flags.input_model_path}: a model of the task '{saved.task}', not of {' or '.join(known)}")
    path = str(weights_path(flags.input_model_path)) if finetuned else flags.input_model_path
    weights = load_checkpoint(path)
    require_whole_model(weights, path)
    if isinstance(architecture, Mapping):
        architecture, head = choose_type(architecture, head, weights, "uer", path), None
    weights = architecture.adopt(weights)
    if any(name.startswith("crf.") for name in weights):
        raise UserError(f"{path}: decodes with a conditional random field (--crf_target), which Hugging Face's token "
                        "classification does not have: the converted model would give other tags")
    head = head if head in HEAD_TASKS else resolve_head(head, weights, architecture, "uer", path)
    converted = names.from_uer(weights, architecture.names, head, path)
    require_known_names(converted.left_out, "uer", path)
    if head in HEAD_TASKS and (own := [name for name in converted.left_out if name.startswith("output_layer")]):
        raise UserError(f"{path}: {names.some(own)} {'is' if len(own) == 1 else 'are'} no part of "
                        f"{architecture.classes[head]}: its head has other layers")
    stages = _stages(path)
    base = model_settings(flags.config_path) or (saved.model if saved else stages[0].model() if stages else None)
    tied = names.is_tied(converted.weights, architecture.names, head, "hugging_face")
    require_layers(flags, converted.sizes.get("layers"), converted.sizes.get("decoder_layers"), path)
    told = flags.settings()
    shared = {} if base or "layers" in converted.sizes else _layers_of_shared_weights(flags)
    config = architecture.model_config(converted.sizes, replace(base, **told) if base else None, head, tied, path,
                                       {**told, **shared})
    require_layers(flags, config.layers_num, None, path)
    converted.weights.update(architecture.computed(config))
    converted.weights.update(architecture.arranged(converted.weights, config))
    converted.weights.update(_of_one_type(converted.weights))
    labels = _labels(saved, converted.sizes["labels"], path) if "labels" in converted.sizes else ()
    return Source(path, architecture, head, weights, converted, config, flags.tokenizer_config(), saved, labels, stages,
                  _read_notes(flags.card_notes_path))


def _of_one_type(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in the narrowest type that holds all of them: transformers opens a file's tensors as one type."""
    widest = functools.reduce(torch.promote_types, {tensor.dtype for tensor in weights.values()})
    return {name: tensor.to(widest) for name, tensor in weights.items()}


def _layers_of_shared_weights(flags: ExportFlags) -> dict[str, int]:
    """The number of layers, which neither weights nor settings tell: --layers_num; or, where it changes no output but
    the depth of the check, that of ALBERT base."""
    if flags.layers_num is None and flags.output_dir:
        return {}
    return {"layers_num": flags.layers_num or 12}


def _read_notes(path: str | None) -> str:
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--card_notes_path {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None


def _stages(path: str) -> tuple[Stage, ...]:
    """What is recorded of the training; a state that cannot be read is said and passed over."""
    try:
        return tuple(recorded_stages(path))
    except UserError as error:
        print(f"the model card will not say how the model was trained: {error}")
        return ()


def _labels(saved: SavedModel | None, count: int, path: str) -> tuple[str, ...]:
    unnamed = tuple(f"LABEL_{number}" for number in range(count))
    labels = tuple(saved.task_settings.get("labels", unnamed)) if saved else unnamed
    if len(labels) != count:
        raise UserError(f"{path}: its settings name {len(labels)} labels, its weights have {count}")
    return labels


def _export_folder(source: Source, folder: str, name: str, with_check: bool, max_shard_size: str = "") -> list[str]:
    """Write the folder of the model that is called `name`; the paths of its files."""
    tokenizer = _tokenizer(source, required=True)
    assert tokenizer is not None
    only = source.architecture.only_tokenizer
    if with_check and only not in ("", tokenizer.kind):
        raise UserError(f"{source.path}: transformers 5 opens every folder of {source.architecture.title} with its own "
                        f"tokenizer, that of --tokenizer {only}; write the weights alone (--output_model_path)")
    vocab = tokenizer.vocab
    segments = "seg" in source.config.embedding
    special_ids = {"pad_id": vocab.pad_id, "cls_id": vocab.cls_id, "sep_id": vocab.sep_id}
    config, generation = _config_json(source, special_ids), source.architecture.generation_json(special_ids)
    if source.saved and source.saved.task in PROBLEM_TYPES:
        config["problem_type"] = PROBLEM_TYPES[source.saved.task]
    with atomic_folder(folder) as temporary:
        write_folder(temporary, source.converted.weights, source.architecture.names, source.head, config,
                     tokenizer, source.seq_length, segments, generation, bytes_of(max_shard_size, "--max_shard_size"),
                     source.saved.encoder.truncation if source.saved else "first")
        for name, content in source.architecture.files(source.config, source.seq_length).items():
            (temporary / name).parent.mkdir(exist_ok=True)
            write_json(content, temporary / name)
        checked = ""
        if with_check:
            check.check_tokenizer(temporary, tokenizer, segments)
            checked = _check(source, config, tokenizer, check.open_folder(temporary, source.architecture, source.head))
        card = model_card(_card_facts(source, name, tokenizer, checked))
        (temporary / "README.md").write_text(card, encoding="utf-8")
        written = sorted(path.name for path in temporary.iterdir())
        files = sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*") if path.is_file())
    for path in Path(folder).iterdir():  # of an export before: weights divided otherwise, another tokenizer's files
        if path.name not in files and (path.name in REPLACED_FILES or WRITTEN_WEIGHTS.fullmatch(path.name)):
            path.unlink()
    print(f"written: {folder}: {', '.join(written)}")
    return files


def _export_weights(source: Source, path: str, with_check: bool) -> None:
    config, weights = _config_json(source, {}), source.converted.weights
    if not source.config.tie_weights or source.architecture.has_decoder:
        weights = with_copies(weights, source.architecture.names)
    with atomic_path(path) as temporary:
        save_weights(weights, temporary)
        if with_check:
            theirs = check.open_weights(load_weights(temporary), config, source.architecture, source.head)
            _check(source, config, _tokenizer(source, required=False), theirs)
    print(f"written: {path}")
    if config.get("tie_word_embeddings") is False:
        print("the output layer has weights of its own: config.json needs \"tie_word_embeddings\": false")


def _config_json(source: Source, special_ids: Mapping[str, int]) -> dict[str, Any]:
    return source.architecture.config_json(source.config, source.vocab_size, source.head, special_ids, source.labels)


def _check(source: Source, config: Mapping[str, Any], tokenizer: Tokenizer | None, theirs: Any) -> str:
    src, seg = check.batch_of(source.architecture, source.head, source.vocab_size, source.config.max_seq_length,
                              tokenizer, theirs)
    model = check.UerModel(source.path, source.architecture, source.head, source.config, source.weights,
                           source.converted.sizes, config)
    found = check.their_logits(theirs, source.architecture, src, seg)
    line = check.require_equal(check.with_their_eps(model), found, src, seg)
    print(f"checked: {line}")
    eps = check.eps_line(model, found, src, seg)
    if eps:
        print(eps)
    return f"{line}; {eps}" if eps else line


def _tokenizer(source: Source, required: bool) -> Tokenizer | None:
    """The model's tokenizer; where it is not required, None when there is no vocabulary of the model's size."""
    if source.saved:
        tokenizer, path = source.saved.encoder.tokenizer, "the vocabulary beside it"
    elif not required and not Path(source.tokenizer.spm_model_path or source.tokenizer.vocab_path or "").is_file():
        return None
    else:
        tokenizer, path = build_tokenizer(source.tokenizer), _vocabulary_flag(source.tokenizer)
    fits = tokenizer.kind in source.architecture.tokenizers and (tokenizer.finds_words or tokenizer.kind != "bert")
    if not fits:
        raise UserError(f"{source.path}: its tokens are not those of a BERT vocabulary, so no tokenizer can be written")
    if len(tokenizer.vocab) == source.vocab_size:
        recorded = source.stages[0].settings.get("vocabulary") if source.stages else None
        require_vocabulary(recorded, tokenizer.vocab.fingerprint, path, source.path)
        return tokenizer
    if required:
        raise UserError(f"{path} has {len(tokenizer.vocab)} entries, but {source.path} has {source.vocab_size}")
    return None


def _vocabulary_flag(config: TokenizerConfig) -> str:
    name = "spm_model_path" if config.spm_model_path else "vocab_path"
    return f"--{name} {getattr(config, name)}"


def _card_facts(source: Source, name: str, tokenizer: Tokenizer, checked: str) -> ModelCardFacts:
    tokens = tokenizer.vocab.tokens
    ideographs = sum(is_ideograph(token) for token in tokens if len(token) == 1)
    tied_rows = source.architecture.names.tied_rows(source.head) if source.config.tie_weights else []
    tied = {row.hugging_face for row in tied_rows}
    parameters = sum(tensor.numel() for name, tensor in source.converted.weights.items() if name not in tied)
    sentence = f"The conversion was checked: {checked}." if checked else "The conversion was not checked."
    return ModelCardFacts(
        name=name, architecture=source.architecture, head=source.head, config=source.config, longest=source.longest,
        vocab_size=source.vocab_size, parameters=parameters, do_lower_case=tokenizer.do_lower_case,
        chinese=ideographs > len(tokens) // 5, source=Path(source.path).name, stages=source.stages,
        labels=source.labels, fine_tuning=_fine_tuning(source.saved), check=sentence, notes=source.card_notes,
        special_tokens=tokenizer.vocab.special_tokens)


def _fine_tuning(saved: SavedModel | None) -> dict[str, Any]:
    """What the settings of a fine-tuned model tell of its training: label -> value."""
    training = saved.task_settings.get("training", {}) if saved else {}
    rows = {label: training[name] for name, label in FINE_TUNING.items() if training.get(name) is not None}
    if saved:
        rows["Sequence length"] = saved.encoder.seq_length
    if training.get("pretrained_model_path"):
        rows["Started from"] = Path(training["pretrained_model_path"]).name
    metrics = {name: value for name, value in training.get("dev", {}).items() if isinstance(value, float)}
    if metrics:
        rows["On dev"] = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    return rows
