"""The way of a BERT from UER to Hugging Face and back. What the conversion scripts share; not a command."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _logits_check as check
from _checkpoint import DEFAULT_VOCAB, model_settings
from torch import Tensor

from uer.config import ModelConfig, TokenizerConfig, flag
from uer.convert import BERT, bert, names
from uer.convert.card import CardFacts, model_card
from uer.convert.files import HuggingFaceModel, atomic_folder, read_hugging_face, write_json
from uer.convert.folder import TokenizerFacts, tied_output, write_folder
from uer.convert.recipe import Stage, recorded_stages
from uer.convert.tokenizer_files import read_tokens
from uer.data.files import atomic_path
from uer.errors import UserError
from uer.finetuning.saved import load_settings, weights_path
from uer.tokenizers import Tokenizer, build_tokenizer
from uer.tokenizers.characters import is_ideograph
from uer.training.checkpoint import load_weights, save_weights

# Heads that a fine-tuned model has, and the task that trains them.
TASK_OF_HEAD = {"text_classification": "classifier", "token_classification": "ner", "extractive_qa": "cmrc"}


@dataclass(frozen=True)
class ExportFlags:
    """From UER to Hugging Face."""

    input_model_path: str = flag("models/input_model.bin", "UER checkpoint: weights as <output_model_path>-<step>.")
    output_model_path: str | None = flag(None, "Where the weights alone are written, with Hugging Face's names\n"
                                               "(default: pytorch_model.bin, unless --output_dir is given).")
    output_dir: str | None = flag(None, "Folder for the whole model: config, model.safetensors, tokenizer, model card.")
    layers_num: int | None = flag(None, "Layers of the model; read from the checkpoint, and an error if it differs.")
    vocab_path: str | None = flag(None, f"Vocabulary of the model (default: {DEFAULT_VOCAB}).")
    do_lower_case: bool | None = flag(None, "Lower-case the text and strip accents (default: true).")
    config_path: str | None = flag(None, "JSON file of the model's settings; needed where heads are not\n"
                                         "hidden / 64, or the activation is not gelu.")
    card_notes_path: str | None = flag(None, "Markdown about corpus and training for the model card of --output_dir.")
    no_check: bool = flag(False, "Do not compare the logits with those of transformers.")


@dataclass(frozen=True)
class ImportFlags:
    """From Hugging Face to UER."""

    input_model_path: str = flag("models/input_model.bin", "Hugging Face model: folder, .safetensors or .bin file.")
    output_model_path: str = flag("models/output_model.bin", "Where the UER checkpoint is written.")
    layers_num: int | None = flag(None, "Layers of the model; read from the weights, and an error if it differs.")
    output_config_path: str | None = flag(None, "Where to write the model's settings for --config_path.")
    output_vocab_path: str | None = flag(None, "Where to write the vocabulary for --vocab_path.")
    no_check: bool = flag(False, "Do not compare the logits with those of transformers.")


@dataclass(frozen=True)
class Source:
    """A UER checkpoint and what is known of it."""

    path: str
    weights: Mapping[str, Tensor]
    converted: names.Conversion
    config: ModelConfig
    tied: bool
    vocab_path: str
    do_lower_case: bool
    labels: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    card_notes: str = ""

    @property
    def vocab_size(self) -> int:
        return self.converted.sizes["vocab"]


def export(flags: ExportFlags, head: str) -> None:
    """Convert, check, and only then put the files in place.

    Raises:
        UserError: whatever is wrong with the input, or logits that differ; nothing is written then.
    """
    source = read_source(flags, head)
    _print_source(source.path, source.config, source.converted, head)
    if flags.output_dir:
        _export_folder(source, head, flags.output_dir, not flags.no_check)
    if flags.output_model_path or not flags.output_dir:
        _export_weights(source, head, flags.output_model_path or "pytorch_model.bin", not flags.no_check)


def read_source(flags: ExportFlags, head: str) -> Source:
    """The checkpoint, converted, with its settings: those of --config_path, of the files beside it, or BERT's usual."""
    saved = load_settings(flags.input_model_path) if head in TASK_OF_HEAD else None
    path = str(weights_path(flags.input_model_path)) if saved else flags.input_model_path
    weights = load_weights(path)
    _require_type(weights, head, "uer", path)
    converted = names.from_uer(weights, BERT, head, path)
    require_layers(flags.layers_num, converted.sizes["layers"], path)
    stages = _stages(path)
    base = model_settings(flags.config_path) or (saved.model if saved else stages[0].model() if stages else None)
    targets = {"mlm": ("mlm",), "bert": ("mlm", "sp")}.get(head, base.target if base else ("mlm",))
    tied = tied_output(converted.weights, BERT, head)
    config = bert.model_config(converted.sizes, base, targets, tied, path)
    if head == "text_classification" and config.pooling != "first":
        raise UserError(f"{path}: pooling is {config.pooling}, but Hugging Face's BERT classifies by the first token")
    lower = saved.tokenizer.do_lower_case if saved else True
    lower = lower if flags.do_lower_case is None else flags.do_lower_case
    vocab_path = flags.vocab_path or (saved.tokenizer.vocab_path if saved else None) or DEFAULT_VOCAB
    labels = _labels(saved.task_settings if saved else {}, converted.sizes, path) if "labels" in converted.sizes else ()
    return Source(path, weights, converted, config, tied, vocab_path, lower, labels, stages,
                  _read_notes(flags.card_notes_path))


def _read_notes(path: str | None) -> str:
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--card_notes_path {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None


def _require_type(weights: Mapping[str, Tensor], head: str, side: names.Side, path: str) -> None:
    """
    Raises:
        UserError: --type bert for a model that was pretrained without next-sentence prediction.
    """
    fitting = names.fitting_heads(weights, BERT, side)
    if head == "bert" and "mlm" in fitting and "bert" not in fitting:
        raise UserError(f"{path}: --type bert needs the layers of next-sentence prediction, which it has not "
                        f"({BERT.heads['bert'][0].name(side)}); --type mlm fits")


def require_layers(given: int | None, found: int, path: str) -> None:
    """
    Raises:
        UserError: the user's number of layers is not the checkpoint's.
    """
    if given is not None and given != found:
        raise UserError(f"layers_num is {given}, but {path} has {found} layers")


def _stages(path: str) -> tuple[Stage, ...]:
    """What is recorded of the training; a state that cannot be read is said and passed over."""
    try:
        return tuple(recorded_stages(path))
    except UserError as error:
        print(f"the model card will not say how the model was trained: {error}")
        return ()


def _labels(settings: Mapping[str, Any], sizes: Mapping[str, int], path: str) -> tuple[str, ...]:
    labels = tuple(settings.get("labels", (f"LABEL_{number}" for number in range(sizes["labels"]))))
    if len(labels) != sizes["labels"]:
        raise UserError(f"{path}: its settings name {len(labels)} labels, its weights have {sizes['labels']}")
    return labels


def _export_folder(source: Source, head: str, folder: str, with_check: bool) -> None:
    tokenizer = _tokenizer(source, required=True)
    assert tokenizer is not None
    vocab = tokenizer.vocab
    facts = TokenizerFacts(vocab.tokens, vocab.special_tokens, source.do_lower_case)
    config = bert.hugging_face_config(source.config, source.vocab_size, head, vocab.pad_id, source.tied, source.labels)
    with atomic_folder(folder) as temporary:
        write_folder(temporary, source.converted.weights, BERT, head, config, facts)
        checked = ""
        if with_check:
            check.check_tokenizer(temporary, tokenizer)
            checked = _check(source, head, tokenizer, check.open_folder(temporary, head))
        card = model_card(_card_facts(source, head, folder, tokenizer, checked))
        (temporary / "README.md").write_text(card, encoding="utf-8")
        written = sorted(path.name for path in temporary.iterdir())
    print(f"written: {folder}: {', '.join(written)}")


def _export_weights(source: Source, head: str, path: str, with_check: bool) -> None:
    config = bert.hugging_face_config(source.config, source.vocab_size, head, tied=source.tied, labels=source.labels)
    with atomic_path(path) as temporary:
        save_weights(source.converted.weights, temporary)
        if with_check:
            tokenizer = _tokenizer(source, required=False)
            _check(source, head, tokenizer, check.open_weights(load_weights(temporary), config, head))
    print(f"written: {path}")
    if not source.tied:
        print("the output layer has weights of its own: config.json needs \"tie_word_embeddings\": false")


def _check(source: Source, head: str, tokenizer: Tokenizer | None, model: Any) -> str:
    src, seg = check.sample_batch(source.vocab_size, source.config.max_seq_length, tokenizer)
    ours = check.our_logits(source.config, source.vocab_size, source.weights, head, src, seg)
    line = check.require_equal(ours, check.their_logits(model, src, seg), seg, source.path)
    print(f"checked: {line}")
    return line


def _tokenizer(source: Source, required: bool) -> Tokenizer | None:
    """The model's tokenizer; where it is not required, None when there is no vocabulary of the model's size."""
    if not required and not Path(source.vocab_path).is_file():
        return None
    tokenizer = build_tokenizer(TokenizerConfig(vocab_path=source.vocab_path, do_lower_case=source.do_lower_case))
    if len(tokenizer.vocab) == source.vocab_size:
        return tokenizer
    if required:
        raise UserError(f"--vocab_path {source.vocab_path} has {len(tokenizer.vocab)} entries, but {source.path} has "
                        f"{source.vocab_size}")
    return None


def _card_facts(source: Source, head: str, folder: str, tokenizer: Tokenizer, checked: str) -> CardFacts:
    tokens = tokenizer.vocab.tokens
    ideographs = sum(is_ideograph(token) for token in tokens if len(token) == 1)
    tied = {row.hugging_face for row in BERT.heads[head] if row.tied_to} if source.tied else set()
    parameters = sum(tensor.numel() for name, tensor in source.converted.weights.items() if name not in tied)
    sentence = f"The conversion was checked: {checked}." if checked else "The conversion was not checked."
    return CardFacts(Path(folder).absolute().name, head, source.config, source.vocab_size, parameters,
                     source.do_lower_case, ideographs > len(tokens) // 5, Path(source.path).name, source.stages,
                     source.labels, sentence, source.card_notes)


def bring_back(flags: ImportFlags, head: str) -> None:
    """Convert from Hugging Face to UER, check, and only then put the files in place.

    Raises:
        UserError: whatever is wrong with the input, or logits that differ; nothing is written then.
    """
    path = flags.input_model_path
    model = read_hugging_face(path)
    told = bert.from_hugging_face_config(model.config, path)
    _require_type(model.weights, head, "hugging_face", path)
    converted = names.from_hugging_face(model.weights, BERT, head, path)
    require_layers(flags.layers_num, converted.sizes["layers"], path)
    tied = all(names.is_tied(converted.weights, row, "uer", BERT) for row in BERT.heads[head] if row.tied_to)
    targets = ("mlm", "sp") if head == "bert" else ("mlm",)
    config = bert.model_config(converted.sizes, None, targets, tied, path, told)
    _print_source(path, config, converted, head)
    if not flags.no_check:
        _check_back(path, model, head, config, converted)
    _write_back(flags, head, config, converted, model.config)


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
                their_config: Mapping[str, Any]) -> None:
    if flags.output_vocab_path:
        tokens = read_tokens(flags.input_model_path)
        with atomic_path(flags.output_vocab_path) as temporary:
            temporary.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
        print(f"written: {flags.output_vocab_path}")
    if flags.output_config_path:
        with atomic_path(flags.output_config_path) as temporary:
            write_json(dataclasses.asdict(config), temporary)
        print(f"written: {flags.output_config_path}")
    save_weights(converted.weights, flags.output_model_path)
    print(f"written: {flags.output_model_path}")
    print("the segment embedding has a new first row, zeros, which belongs to padding and is never read")
    if "mlm" in config.target and not config.tie_weights:
        print("the output layer has weights of its own: the model's settings need tie_weights false")


def _print_source(path: str, config: ModelConfig, converted: names.Conversion, head: str) -> None:
    print(f"{path}: {config.layers_num} layers, hidden {config.hidden_size}, {config.heads_num} heads, feed-forward "
          f"{config.feedforward_size}, {config.hidden_act}, vocabulary {converted.sizes['vocab']}, head {head}")
    if converted.left_out:
        print(f"left out, no place under this head: {names.some(converted.left_out)}")
