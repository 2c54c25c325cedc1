"""A model's settings by rows that both directions read: UER's `ModelConfig`, and Hugging Face's config.json."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from uer.config import ModelConfig
from uer.errors import UserError

ANY = object()
"""No particular value."""


def same(value: Any) -> Any:
    """The value itself."""
    return value


@dataclass(frozen=True)
class Setting:
    """One setting under its two names.

    Attributes:
        uer: its name in UER: a field of `ModelConfig`, "vocab_size", or a special token's number such as "pad_id"; ""
            where UER has no such setting.
        hugging_face: its name in config.json; "" where Hugging Face has no such setting.
        to: UER's value -> Hugging Face's; raises ValueError, whose text goes on after the setting's name and value.
        back: Hugging Face's value -> UER's; raises as `to`.
        must: the only value that this architecture has, where one side alone has the setting.
        size: the dimension of the name table (or the number of layers) that measures it: the weights decide, and
            settings that contradict them are an error.
        only: "write": the setting is not looked at where a model is read; "read": it is not written.
        default: Hugging Face's value where config.json leaves the setting out or has null; None is none.
        heads: where given, the row is for these heads alone.

    >>> write_settings([Setting("dropout", "hidden_dropout_prob"), Setting("", "use_cache", must=True)],
    ...                {"dropout": 0.1}, "mlm")
    {'hidden_dropout_prob': 0.1, 'use_cache': True}
    """

    uer: str = ""
    hugging_face: str = ""
    to: Callable[[Any], Any] = same
    back: Callable[[Any], Any] = same
    must: Any = ANY
    size: str = ""
    only: Literal["", "read", "write"] = ""
    default: Any = None
    heads: tuple[str, ...] = ()

    def is_for(self, head: str) -> bool:
        """Whether the row applies under this head."""
        return not self.heads or head in self.heads


def uer_only(**values: Any) -> tuple[Setting, ...]:
    """Rows of settings that UER alone has, with the values that they have in this architecture, and those of
    `TRANSFORMER` where `values` has no others."""
    return tuple(Setting(name, must=value) for name, value in {**TRANSFORMER, **values}.items())


TRANSFORMER = {"feed_forward": "dense", "layernorm": "normal", "relative_position_embedding": False,
               "remove_attention_scale": False, "remove_transformer_bias": False, "parameter_sharing": False,
               "has_residual_attention": False, "factorized_embedding_parameterization": False,
               "encoder": "transformer"}
"""What UER's settings are in most architectures."""


class Names:
    """UER's names of something and Hugging Face's, as the `to` and `back` of a setting.

    >>> Names({"gelu_fast": ("gelu_fast", "gelu_new")}).back("gelu_new")
    'gelu_fast'
    """

    def __init__(self, table: Mapping[str, tuple[str, ...]], hugging_face: str = "Hugging Face") -> None:
        """
        Args:
            table: UER's name -> Hugging Face's names for the same; the first is written.
            hugging_face: whose names they are, for the messages.
        """
        self._to = {ours: theirs[0] for ours, theirs in table.items()}
        # Names that are written come first, so that a message lists the usual ones before the others.
        pairs = [*((theirs[0], ours) for ours, theirs in table.items()),
                 *((name, ours) for ours, theirs in table.items() for name in theirs[1:])]
        self._back = dict(pairs)
        self._hugging_face = hugging_face

    def to(self, value: Any) -> Any:
        """UER's name -> Hugging Face's."""
        return self._find(self._to, value, self._hugging_face)

    def back(self, value: Any) -> Any:
        """Hugging Face's name -> UER's."""
        return self._find(self._back, value, "UER")

    @staticmethod
    def _find(table: Mapping[str, str], value: Any, side: str) -> str:
        if not isinstance(value, str) or value not in table:
            raise ValueError(f"{value} has no counterpart in {side}; these have: {', '.join(table)}")
        return table[value]


def activations(written: str, model: str = "Hugging Face") -> Names:
    """The activations.

    Args:
        written: Hugging Face's name for UER's gelu_fast, which is read under three.
        model: as for `Names`.
    """
    others = [name for name in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh") if name != written]
    return Names({"gelu": ("gelu",), "gelu_fast": (written, *others), "relu": ("relu",), "silu": ("silu", "swish")},
                 model)


def probability(value: Any) -> float:
    """A dropout probability.

    Raises:
        ValueError: it is none.
    """
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise ValueError(f"must lie in [0, 1), not {value}")
    return value


def epsilon(value: float | None, usual: float = 1e-12) -> float:
    """What Hugging Face calls UER's `layernorm_eps`; `usual` is what UER's layer norms add where it is None."""
    return usual if value is None else value


def from_epsilon(value: Any, usual: float = 1e-12) -> float | None:
    """`epsilon`, the way back.

    Raises:
        ValueError: it is no small positive number.
    """
    if type(value) not in (int, float) or not 0 < value < 1:
        raise ValueError(f"must lie between 0 and 1, not {value}")
    return None if value == usual else value


def whole_number(value: Any) -> int:
    """A number of heads or layers.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not int or value < 1:
        raise ValueError(f"must be a whole number, not {value}")
    return value


def write_settings(settings: Iterable[Setting], known: Mapping[str, Any], head: str) -> dict[str, Any]:
    """config.json's content, in the rows' order.

    Args:
        settings: the rows.
        known: UER's settings, by the names that the rows have for them; a row whose name is not here is left out.
        head: what stands on top of the model.
    """
    rows = [row for row in settings if row.hugging_face and row.only != "read" and row.is_for(head)]
    return {row.hugging_face: row.to(known[row.uer]) if row.uer else row.must
            for row in rows if not row.uer or row.uer in known}


def read_settings(settings: Iterable[Setting], content: Mapping[str, Any], path: str, model: str) -> dict[str, Any]:
    """What config.json says that tensors cannot (heads, activation, dropout), under UER's names.

    Args:
        settings: the rows.
        content: config.json's; a setting that is absent or null has the row's default, or says nothing.
        path: the model's, for the messages.
        model: what the architecture is called.

    Raises:
        UserError: the model computes something that UER's does not.
    """
    told: dict[str, Any] = {}
    for row in settings:
        value = row.default if content.get(row.hugging_face) is None else content[row.hugging_face]
        if value is None or row.only == "write" or row.size:
            continue
        if row.must is not ANY and value != row.must:
            raise UserError(f"{path}: {row.hugging_face} is {value}; UER's {model} has {row.must}")
        if row.uer:
            try:
                found = row.back(value)
            except ValueError as error:
                raise UserError(f"{path}: {row.hugging_face} {error}") from None
            if told.setdefault(row.uer, found) != found:
                raise UserError(f"{path}: {row.hugging_face} is {value}; UER's {model} has one {row.uer}, and "
                                f"config.json says {told[row.uer]} for it elsewhere")
    return told


def measured_settings(settings: Iterable[Setting], sizes: Mapping[str, int]) -> dict[str, int]:
    """The settings that the weights tell, under UER's names."""
    return {row.uer: sizes[row.size] for row in settings if row.size and row.uer}


def required_settings(settings: Iterable[Setting], head: str) -> dict[str, Any]:
    """What UER's settings are in every model of the architecture."""
    return {row.uer: row.must for row in settings if not row.hugging_face and row.must is not ANY and row.is_for(head)}


def require_sizes(settings: Iterable[Setting], content: Mapping[str, Any], sizes: Mapping[str, int], path: str) -> None:
    """
    Raises:
        UserError: config.json contradicts the weights beside it.
    """
    for row in settings:
        if row.size and content.get(row.hugging_face) is not None:
            found = row.to(sizes[row.size])
            if content[row.hugging_face] != found:
                raise UserError(f"{path}: config.json says {row.hugging_face} {content[row.hugging_face]}, but the "
                                f"weights have {found}")


def require_agreement(settings: tuple[Setting, ...], base: ModelConfig, sizes: Mapping[str, int], head: str, path: str,
                      model: str) -> None:
    """
    Args:
        settings: the rows.
        base: UER's settings of the model.
        sizes: `Conversion.sizes`.
        head: what stands on top of the model.
        path: the checkpoint's, for the messages.
        model: what the architecture is called.

    Raises:
        UserError: the settings contradict the weights, or are not this architecture's.
    """
    for name, size in measured_settings(settings, sizes).items():
        if getattr(base, name, size) != size:
            raise UserError(f"{path}: {name} is {size}, but the model's settings say {getattr(base, name)}")
    for row in settings:
        value = getattr(base, row.uer, base.members.get(row.uer, ANY))
        if row.only == "write" or value is ANY or not row.is_for(head):
            continue
        if not row.hugging_face and row.must not in (ANY, value):
            raise UserError(f"{path}: {row.uer} is {value} in the model's settings, but it is {row.must} in Hugging "
                            f"Face's {model}")
        try:
            row.to(value)
        except ValueError as error:
            raise UserError(f"{path}: {row.uer} {error}") from None


def labels_of(content: Mapping[str, Any], count: int, path: str) -> tuple[str, ...]:
    """The labels' names in config.json, in the order of their numbers; LABEL_0, LABEL_1, ... where it has none.

    Raises:
        UserError: it names another number of labels than the weights have, other numbers, or a label twice.
    """
    given = content.get("id2label")
    if not isinstance(given, Mapping):
        return tuple(f"LABEL_{number}" for number in range(count))
    names = {str(number): str(label) for number, label in given.items()}
    if len(names) != count:
        raise UserError(f"{path}: id2label names {len(names)} labels, the weights have {count}")
    if nameless := [number for number in range(count) if str(number) not in names]:
        raise UserError(f"{path}: id2label has no label {nameless[0]}; the weights have 0 to {count - 1}")
    if twice := next((name for name, number in Counter(names.values()).items() if number > 1), None):
        raise UserError(f"{path}: id2label names '{twice}' twice")
    return tuple(names[str(number)] for number in range(count))
