"""Opening a model with no more than its path. What the scripts that use a model share; not a command."""

from dataclasses import dataclass

from torch import Tensor

from uer.api import weights as opening
from uer.api.weights import DEFAULT_VOCAB
from uer.config import ModelConfig, TokenizerConfig, flag
from uer.convert import open as convert_open
from uer.convert.open import folder_of, is_hugging_face
from uer.convert.tokenizer_files import read_tokenizer
from uer.model_settings import model_settings
from uer.tokenizers import Tokenizer

__all__ = ["DEFAULT_VOCAB", "CheckpointFlags", "open_checkpoint", "open_tokenizer"]


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

    @property
    def path(self) -> str:
        """The checkpoint, by whichever flag it was named."""
        return self.load_model_path or self.pretrained_model_path or ""


def open_checkpoint(flags: CheckpointFlags) -> tuple[dict[str, Tensor], ModelConfig]:
    """A model's weights under UER's names, and the settings of --config_path, of its training state or its folder, or
    as its tensors tell.

    Raises:
        UserError: it cannot be read, or is no BERT and --config_path is not given.
    """
    return convert_open.open_checkpoint(flags.path, model_settings(flags.config_path))


def open_tokenizer(flags: CheckpointFlags, config: TokenizerConfig, size: int) -> Tokenizer:
    """The tokenizer of a model with so many entries: of --vocab_path, else a Hugging Face folder's own.

    Raises:
        UserError: the vocabulary has another size, or there is none.
    """
    if config.vocab_path or not is_hugging_face(flags.path):
        return opening.open_tokenizer(config, size, flags.path)
    folder = folder_of(flags.path)
    tokenizer = read_tokenizer(folder)
    opening.require_size(tokenizer, size, f"the vocabulary of {folder}", flags.path)
    return tokenizer
