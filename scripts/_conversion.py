"""What both ways of a BERT share: between UER and Hugging Face, there and back. Not a command."""

from collections.abc import Mapping

from torch import Tensor

from uer.config import ModelConfig
from uer.convert import BERT, names
from uer.convert.open import pretrained_head
from uer.errors import UserError


def resolve_type(given: str | None, weights: Mapping[str, Tensor], side: names.Side, path: str) -> str:
    """The head that --type names, or the one that the weights hold where the flag is left out.

    Raises:
        UserError: --type bert for a model that was pretrained without next-sentence prediction.
    """
    if given is not None:
        require_type(weights, given, side, path)
    return given or pretrained_head(weights, side)


def require_type(weights: Mapping[str, Tensor], head: str, side: names.Side, path: str) -> None:
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


def print_model(path: str, config: ModelConfig, converted: names.Conversion, head: str) -> None:
    """Say what is converted, and what is left out."""
    print(f"{path}: {config.layers_num} layers, hidden {config.hidden_size}, {config.heads_num} heads, feed-forward "
          f"{config.feedforward_size}, {config.hidden_act}, vocabulary {converted.sizes['vocab']}, head {head}")
    if converted.left_out:
        print(f"left out, no place under this head: {names.some(converted.left_out)}")
