"""Opens the model at a path: a fine-tuned model, a UER checkpoint, or a Hugging Face folder."""

import os
import warnings

import torch

from uer.api.text_model import TextModel
from uer.api.weights import fill, find_device, open_tokenizer, pretrained_model, require_size
from uer.config import ModelConfig, TokenizerConfig
from uer.convert.open import (
    HuggingFaceSource,
    checkpoint_config,
    is_hugging_face,
    load_uer_weights,
    open_hugging_face,
    vocab_size,
)
from uer.convert.provenance import recorded_stages, require_vocabulary
from uer.convert.tokenizer_files import cutting, divided_tokens, read_tokenizer
from uer.errors import UserError
from uer.finetuning.hugging_face import HEAD_TASKS, task_of_head
from uer.finetuning.saved_model import is_finetuned, load_finetuned, load_settings, settings_path
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks import TASKS
from uer.model_settings import model_settings
from uer.registry import choose
from uer.tokenizers import BertTokenizer, Tokenizer

PRECISIONS = ("fp32", "bf16")


def load(path: str | os.PathLike, device: str = "auto", *, config_path: str | os.PathLike | None = None,
         vocab_path: str | os.PathLike | None = None, tokenizer: str = "bert", do_lower_case: bool | None = None,
         precision: str = "fp32") -> TextModel:
    """See `uer.load`."""
    path, torch_device = os.fspath(path), find_device(device)
    choose(dict.fromkeys(PRECISIONS), precision, "precision")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder")
    wanted = TokenizerConfig(tokenizer=tokenizer, vocab_path=os.fspath(vocab_path) if vocab_path else None,
                             do_lower_case=do_lower_case is not False)
    config = model_settings(config_path)
    if is_finetuned(path):
        for name, value in (("config_path", config_path), ("vocab_path", vocab_path), ("do_lower_case", do_lower_case)):
            if value is not None:
                raise UserError(f"{path}: a fine-tuned model has its own settings; leave out {name}")
        return _finetuned(path, torch_device, precision)
    if is_hugging_face(path):
        source = open_hugging_face(path)
        own = _tokenizer_of(source, wanted, do_lower_case)
        return _hugging_face(source, config, own, torch_device, precision)
    return _checkpoint(path, config or _settings_beside(path), wanted, torch_device, precision)


def _settings_beside(path: str) -> ModelConfig | None:
    """The settings in `models/medium.json` for `models/medium.bin`, as the conversion from Hugging Face writes them."""
    return model_settings(settings_path(path)) if settings_path(path).is_file() else None


def _finetuned(path: str, device: torch.device, precision: str) -> TextModel:
    saved = load_settings(path)
    assert saved is not None
    task = choose(TASKS, saved.task, f"the task of {path}").from_settings(saved.task_settings)
    model = task.build(saved.model, len(saved.encoder.tokenizer.vocab))
    load_finetuned(model, task, path)
    return TextModel(path, model.eval().to(device), saved.model.stream(0), saved.encoder.tokenizer, device, task,
                     saved.encoder, precision)


def _hugging_face(source: HuggingFaceSource, config: ModelConfig | None, tokenizer: Tokenizer, device: torch.device,
                  precision: str) -> TextModel:
    (weights, config), path, size = source.usable(config), source.path, source.converted.sizes["vocab"]
    if source.head not in HEAD_TASKS:
        return TextModel(path, pretrained_model(config, size, weights, path).to(device), config, tokenizer, device,
                         precision=precision)
    task = task_of_head(source.head, source.converted.sizes, source.model.config, path)
    model = fill(task.build(config, size), weights, path).to(device)
    if line := divided_tokens(source.folder, tokenizer):
        warnings.warn(line, stacklevel=4)
    encoder = TextToRows(tokenizer, *cutting(source.folder, config.max_seq_length))
    return TextModel(path, model, config, tokenizer, device, task, encoder, precision)


def _tokenizer_of(source: HuggingFaceSource, wanted: TokenizerConfig, do_lower_case: bool | None) -> Tokenizer:
    """The folder's tokenizer, unless the user names another vocabulary or case."""
    size = source.converted.sizes["vocab"]
    if wanted.vocab_path:
        return open_tokenizer(wanted, size, source.path)
    tokenizer = read_tokenizer(source.folder, size)
    require_size(tokenizer, size, f"the vocabulary of {source.folder}", source.path)
    if do_lower_case is None or tokenizer.kind != "bert":
        return tokenizer
    return BertTokenizer(tokenizer.vocab, do_lower_case)


def _checkpoint(path: str, config: ModelConfig | None, wanted: TokenizerConfig, device: torch.device, precision: str
                ) -> TextModel:
    weights, stages = load_uer_weights(path), recorded_stages(path)
    size = vocab_size(weights, path)
    config = config or checkpoint_config(weights, stages, path)
    tokenizer = open_tokenizer(wanted, size, path)
    recorded = stages[0].settings.get("vocabulary") if stages else None
    require_vocabulary(recorded, tokenizer.vocab.fingerprint,
                       f"vocab_path {wanted.vocab_path or 'is not given, and the default'}", path)
    return TextModel(path, pretrained_model(config, size, weights, path).to(device), config, tokenizer, device,
                     precision=precision)
