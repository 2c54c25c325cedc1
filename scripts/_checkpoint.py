"""Opening a model with no more than its path. What the scripts that use a model share; not a command."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from uer.api import weights as opening
from uer.api.weights import DEFAULT_VOCAB
from uer.config import ModelConfig, TokenizerConfig, flag
from uer.convert import open as convert_open
from uer.convert.open import folder_of, is_hugging_face
from uer.convert.provenance import record_names, recorded_vocabulary, require_vocabulary
from uer.convert.tokenizer_files import read_tokenizer
from uer.finetuning.paths import model_files, weights_path
from uer.finetuning.saved_model import is_finetuned, load_settings
from uer.model_settings import model_settings
from uer.paths import File, existing
from uer.tokenizers import Tokenizer

__all__ = ["DEFAULT_VOCAB", "CheckpointFlags", "open_both", "open_checkpoint", "open_tokenizer"]


@dataclass(frozen=True)
class CheckpointFlags:
    """Which model, and where it computes."""

    load_model_path: str | None = flag(None, "UER checkpoint, or a Hugging Face folder.", path="read")
    pretrained_model_path: str | None = flag(None, "Another name for --load_model_path.", path="read")
    config_path: str | None = flag(None, "JSON file of the model's settings (default: as the model tells).",
                                   path="read")
    device: str = flag("auto", "Where to compute; auto is CUDA when there is one.", choices=("auto", "cpu", "cuda"))

    def problems(self) -> list[str]:
        if bool(self.load_model_path) == bool(self.pretrained_model_path):
            return ["one of --load_model_path and --pretrained_model_path is needed"]
        return []

    def reads(self) -> list[File]:
        """The usual vocabulary, and what lies beside the checkpoint (settings, vocabulary, training state)."""
        beside = (*model_files(self.path), *existing(Path(self.path).parent, record_names(self.path)))
        return [File("--vocab_path", DEFAULT_VOCAB), *(File("--load_model_path", str(path)) for path in beside)]

    @property
    def path(self) -> str:
        """The checkpoint, by whichever flag it was named; in a fine-tuned model's folder, its weights."""
        given = self.load_model_path or self.pretrained_model_path or ""
        return given if not given or is_hugging_face(given) else str(weights_path(given))


def open_checkpoint(flags: CheckpointFlags, given: ModelConfig | None = None) -> tuple[dict[str, Tensor], ModelConfig]:
    """A model's weights under UER's names, and the settings of --config_path, of the files beside it or of its folder,
    or as its tensors tell.

    Args:
        flags: which checkpoint.
        given: the settings as the command line has them, where the script has the flags of the architecture; those
            that were given there change what the checkpoint tells.

    Raises:
        UserError: it cannot be read, or nothing tells its settings and --config_path is not given.
    """
    config = given if given and flags.config_path else model_settings(flags.config_path)
    if config is None and is_finetuned(flags.path):
        config = load_settings(flags.path).model
    weights, config = convert_open.open_checkpoint(flags.path, config)
    return weights, replace(config, **(given_settings(given) if given and not flags.config_path else {}))


def open_both(flags: CheckpointFlags, tokenizer: TokenizerConfig, given: ModelConfig | None = None
              ) -> tuple[dict[str, Tensor], ModelConfig, Tokenizer]:
    """`open_checkpoint`, and the tokenizer that fits its word embedding; errors as `open_checkpoint`, `open_tokenizer`.
    """
    weights, config = open_checkpoint(flags, given)
    return weights, config, open_tokenizer(flags, tokenizer, convert_open.vocab_size(weights, flags.path))


def given_settings(config: ModelConfig, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings of `config` whose flags stand on the command line.

    >>> given_settings(ModelConfig(heads_num=4), ["--heads_num", "4"])
    {'heads_num': 4}
    """
    words = {word.partition("=")[0] for word in (sys.argv[1:] if argv is None else argv)}
    return {field.name: getattr(config, field.name) for field in fields(config)
            if words & {f"--{field.name}", f"--no-{field.name}"}}


def open_tokenizer(flags: CheckpointFlags, config: TokenizerConfig, size: int) -> Tokenizer:
    """The tokenizer of a model with so many entries: of --vocab_path or --spm_model_path, else a fine-tuned model's or
    a Hugging Face folder's own.

    Raises:
        UserError: the vocabulary has another size, is another than that of the training, or there is none.
    """
    if not (config.vocab_path or config.spm_model_path) and is_finetuned(flags.path):
        return load_settings(flags.path).encoder.tokenizer
    if config.vocab_path or not is_hugging_face(flags.path):
        tokenizer = opening.open_tokenizer(config, size, flags.path)
        require_vocabulary(recorded_vocabulary(flags.path), tokenizer.vocab.fingerprint,
                           config.spm_model_path or config.vocab_path or DEFAULT_VOCAB, flags.path)
        return tokenizer
    folder = folder_of(flags.path)
    tokenizer = read_tokenizer(folder, size)
    opening.require_size(tokenizer, size, f"the vocabulary of {folder}", flags.path)
    return tokenizer
