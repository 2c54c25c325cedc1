"""Loads weights into a model for use, and checks that no parameter is missing."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from uer.backbone import Backbone
from uer.checkpoint.files import load_into
from uer.config import ModelConfig, TokenizerConfig
from uer.convert import names
from uer.convert.open import USUAL
from uer.errors import UserError
from uer.finetuning.heads import SentenceEncoder
from uer.model import build_model
from uer.tokenizers import Tokenizer, build_tokenizer

DEFAULT_VOCAB = "models/google_zh_vocab.txt"
OUTPUT_LAYER = "target.mlm.linear_2.weight"


def find_device(name: str | torch.device) -> torch.device:
    """The device of this name; auto is CUDA if there is a GPU, else the CPU.

    Raises:
        UserError: the name is unknown, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name}: {str(error).splitlines()[0]}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name}: there is no CUDA device" if not torch.cuda.device_count() else
                        f"device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def fill(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> nn.Module:
    """Load a checkpoint's weights into the model and set it to evaluation mode.

    Raises:
        UserError: a parameter is missing or has another shape.
    """
    report = load_into(model, weights, path)
    if report.missing or report.other_shape:
        first = (f"{report.other_shape[0][0]} is {list(report.other_shape[0][1])} in the file and "
                 f"{list(report.other_shape[0][2])} here" if report.other_shape else f"it has no {report.missing[0]}")
        count = len(report.missing) + len(report.other_shape)
        raise UserError(f"{path}: {count} parameters do not fit this model: {first}")
    return model.eval()


def has_mlm_head(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights with UER's names have an mlm head."""
    return "mlm" in names.fitting_heads(weights, USUAL.names, "uer")


def pretrained_model(config: ModelConfig, vocab_size: int, weights: Mapping[str, Tensor], path: str) -> Backbone:
    """Build a pretrained model with its mlm head, or the encoder alone if the weights have no such head.

    Raises:
        UserError: a parameter is missing or has another shape.
    """
    if not has_mlm_head(weights):
        return fill(SentenceEncoder(config, vocab_size), weights, path)
    tied = OUTPUT_LAYER not in weights
    return fill(build_model(replace(config, target=("mlm",), tie_weights=tied), vocab_size), weights, path)


def open_tokenizer(config: TokenizerConfig, size: int, path: str) -> Tokenizer:
    """The tokenizer for a model whose vocabulary has `size` entries.

    Raises:
        UserError: the tokenizer's vocabulary has another size.
    """
    vocab_path = config.vocab_path or DEFAULT_VOCAB
    tokenizer = build_tokenizer(replace(config, vocab_path=vocab_path))
    require_size(tokenizer, size, f"--vocab_path {vocab_path}", path)
    return tokenizer


def require_size(tokenizer: Tokenizer, size: int, what: str, path: str) -> None:
    """
    Raises:
        UserError: the vocabulary has another number of entries than the model.
    """
    if len(tokenizer.vocab) != size:
        raise UserError(f"{what} has {len(tokenizer.vocab)} entries, but {path} has {size}")
