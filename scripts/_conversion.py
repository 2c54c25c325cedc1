"""What both directions of a conversion share: from UER to Hugging Face, and back. Not a command."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from uer.config import ModelConfig
from uer.convert import ARCHITECTURES, Architecture, names
from uer.convert.open import class_names
from uer.errors import UserError
from uer.finetuning.hugging_face import HEAD_TASKS


def resolve_head(given: str | None, weights: Mapping[str, Tensor], architecture: Architecture, side: names.Side,
                 path: str) -> str:
    """The head that --type names, or the pretrained one that the weights hold where the flag is left out.

    Raises:
        UserError: --type needs a target that the model was not pretrained with.
    """
    fitting = [head for head in architecture.outputs if head in
               names.fitting_heads(weights, architecture.names, side)]
    if given is None:
        return fitting[0] if fitting else [*architecture.outputs][-1]
    if fitting and given in architecture.outputs and given not in fitting:
        missing = next(name for row in architecture.names.heads[given] for name in row.names(side)
                       if name not in weights and not row.tied_to)
        raise UserError(f"{path}: --type {given} needs the layers of the targets "
                        f"{' and '.join(architecture.targets(given))}, but {missing} is missing; --type {fitting[0]} "
                        "fits")
    return given


def choose_type(architectures: Mapping[str, Architecture], given: str | None, weights: Mapping[str, Tensor],
                side: names.Side, path: str) -> Architecture:
    """The architecture that --type names, or the one that fits the weights where the flag is left out.

    Raises:
        UserError: another one fits.
    """
    tidied = {name: names.tidy(weights, known.names) if side == "hugging_face" else weights
              for name, known in architectures.items()}
    fitting = [name for name, known in architectures.items() if names.fits(tidied[name], known.names, side)]
    if given and fitting and given not in fitting:
        raise UserError(f"{path}: it is no model of --type {given}; --type {fitting[0]} fits")
    return architectures[given or next(iter((*fitting, *architectures)))]


def require_layers(flags: Any, layers: int | None, decoder_layers: int | None, path: str) -> None:
    """See that the user's numbers of layers, where there are any, are the checkpoint's.

    Raises:
        UserError: they are not.
    """
    for name, found, where in (("layers_num", layers, ""), ("decoder_layers_num", decoder_layers, " in its decoder")):
        given = getattr(flags, name, None)
        if None not in (given, found) and given != found:
            raise UserError(f"{name} is {given}, but {path} has {found} layers{where}")


def require_known_names(left_out: Sequence[str], side: names.Side, path: str) -> None:
    """See that tensors which are no part of the converted head may belong to another one.

    Raises:
        UserError: one begins with a name that no tensor of any architecture begins with.
    """
    strange = [name for name in left_out if name.partition(".")[0] not in _first_names(side)]
    if strange:
        raise UserError(f"{path}: no architecture has {names.some(strange)}")


def _first_names(side: names.Side) -> set[str]:
    """What the names of tensors begin with, those of every target and head among them."""
    tables = [one.names for one in ARCHITECTURES.values()]
    rows = [row for table in tables for rows in (table.body, *table.heads.values()) for row in rows]
    stacks = [beginning for table in tables for beginning in table.prefixes[side]]
    others = {"uer": ("target", "classifier"), "hugging_face": ("pooler",)}[side]
    return {name.partition(".")[0] for name in (*others, *stacks, *(name for row in rows for name in row.names(side)))}


def require_class(content: Mapping[str, Any], architecture: Architecture, head: str, path: str) -> None:
    """See that config.json names no class of another fine-tuned head: the names of two may be the same.

    Raises:
        UserError: it does.
    """
    told = [name for name in class_names(content) if name in architecture.classes.values()]
    if head in HEAD_TASKS and told and architecture.classes[head] not in told:
        raise UserError(f"{path}: a {told[0]}, not a {architecture.classes[head]}")


def print_model(path: str, config: ModelConfig, converted: names.Conversion, head: str) -> None:
    """Say what is converted, and what is left out."""
    decoder = f" and {config.decoder_layers_num} decoder layers" if config.decoder else ""
    print(f"{path}: {config.layers_num} layers{decoder}, hidden {config.hidden_size}, {config.heads_num} heads, "
          f"feed-forward {config.feedforward_size}, {config.hidden_act}, vocabulary {converted.sizes['vocab']}, "
          f"head {head}")
    if converted.left_out:
        print(f"left out, not a part of this head: {names.some(converted.left_out)}")
