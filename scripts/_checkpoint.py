"""Opening a UER checkpoint with no more than its path. What the scripts that use a model share; not a command."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from _settings import model_settings
from torch import Tensor, nn

from uer.config import ModelConfig, TokenizerConfig, flag
from uer.convert import BERT, bert, names
from uer.convert.recipe import recorded_stages, state_name
from uer.errors import UserError
from uer.paths import File, existing
from uer.tokenizers import Tokenizer, build_tokenizer
from uer.training.checkpoint import load_into, load_weights

DEFAULT_VOCAB = "models/google_zh_vocab.txt"


@dataclass(frozen=True)
class CheckpointFlags:
    """Which model, and where it computes."""

    load_model_path: str | None = flag(None, "UER checkpoint.", path="read")
    pretrained_model_path: str | None = flag(None, "Another name for --load_model_path.", path="read")
    config_path: str | None = flag(None, "JSON file of the model's settings (default: as the checkpoint tells).",
                                   path="read")
    device: str = flag("auto", "Where to compute; auto is CUDA when there is one.", choices=("auto", "cpu", "cuda"))

    def problems(self) -> list[str]:
        if bool(self.load_model_path) == bool(self.pretrained_model_path):
            return ["one of --load_model_path and --pretrained_model_path is needed"]
        return []

    def reads(self) -> list[File]:
        """The usual vocabulary, and the training state beside the checkpoint."""
        beside = existing(Path(self.path).parent, state_name(self.path))
        return [File("--vocab_path", DEFAULT_VOCAB), *(File("--load_model_path", str(path)) for path in beside)]

    @property
    def path(self) -> str:
        """The checkpoint, by whichever flag it was named."""
        return self.load_model_path or self.pretrained_model_path or ""


def open_checkpoint(flags: CheckpointFlags, given: ModelConfig | None = None) -> tuple[dict[str, Tensor], ModelConfig]:
    """A checkpoint's weights, and the settings of --config_path, of its training state, or as its tensors tell.

    Args:
        flags: which checkpoint.
        given: the settings as the command line has them, where the script has the flags of the architecture; those
            that were given there change what the checkpoint tells.

    Raises:
        UserError: it cannot be read, or is no BERT and --config_path is not given.
    """
    weights = load_weights(flags.path)
    config = given if given and flags.config_path else model_settings(flags.config_path)
    if config is not None:
        return weights, config
    sizes = names.measure(weights, BERT, "uer", flags.path)
    stages = recorded_stages(flags.path)
    config = bert.model_config(sizes, stages[0].model() if stages else None, ("mlm",), False, flags.path)
    return weights, replace(config, **(given_settings(given) if given else {}))


def given_settings(config: ModelConfig, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings of `config` whose flags stand on the command line.

    >>> given_settings(ModelConfig(heads_num=4), ["--heads_num", "4"])
    {'heads_num': 4}
    """
    words = {word.partition("=")[0] for word in (sys.argv[1:] if argv is None else argv)}
    return {field.name: getattr(config, field.name) for field in fields(config)
            if words & {f"--{field.name}", f"--no-{field.name}"}}


def vocab_size(weights: Mapping[str, Tensor], path: str) -> int:
    """Rows of the word embedding.

    Raises:
        UserError: there is none.
    """
    name = BERT.body[0].uer
    if name not in weights:
        raise UserError(f"{path}: has no {name}; its names are not UER's")
    return len(weights[name])


def open_tokenizer(config: TokenizerConfig, size: int, path: str) -> Tokenizer:
    """The tokenizer of a model with so many entries.

    Raises:
        UserError: the vocabulary has another size.
    """
    vocab_path = config.vocab_path or DEFAULT_VOCAB
    tokenizer = build_tokenizer(TokenizerConfig(tokenizer=config.tokenizer, vocab_path=vocab_path,
                                                do_lower_case=config.do_lower_case))
    if len(tokenizer.vocab) != size:
        raise UserError(f"--vocab_path {vocab_path} has {len(tokenizer.vocab)} entries, but {path} has {size}")
    return tokenizer


def fill(model: nn.Module, weights: Mapping[str, Tensor], flags: CheckpointFlags) -> nn.Module:
    """The model with the checkpoint's weights, every one of its parameters covered, on its device, without dropout.

    Raises:
        UserError: a parameter is missing or has another shape.
    """
    report = load_into(model, weights, flags.path)
    if report.missing or report.other_shape:
        first = (f"{report.other_shape[0][0]} is {list(report.other_shape[0][1])} in the file and "
                 f"{list(report.other_shape[0][2])} here" if report.other_shape else f"it has no {report.missing[0]}")
        count = len(report.missing) + len(report.other_shape)
        raise UserError(f"{flags.path}: {count} parameters do not fit this model: {first}")
    device = "cuda" if flags.device != "cpu" and torch.cuda.is_available() else "cpu"
    if flags.device == "cuda" and device == "cpu":
        raise UserError("--device cuda: there is no CUDA device")
    return model.eval().to(device)
