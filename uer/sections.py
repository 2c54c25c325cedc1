"""Sections: the values of config classes, from flags, JSON files and defaults; those of their members among them.

A section is a config class of `uer.config`. Where it chooses members (an encoder, a processor), the settings that their
classes declare as `config_class` are flags and JSON keys too, and the section keeps their values: see `Members`.
"""

import dataclasses
import difflib
import importlib
import json
import math
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from uer import config as config_module
from uer.errors import UserError
from uer.json_files import read_json_object
from uer.registry import choose

# For each `family` of a field: the module, and its table of valid values.
FAMILIES = {
    "tokenizer": ("uer.tokenizers", "TOKENIZERS"),
    "tgt_tokenizer": ("uer.tokenizers", "TOKENIZERS"),
    "data_processor": ("uer.data.processors", "PROCESSORS"),
    "hidden_act": ("uer.layers.activations", "ACTIVATIONS"),
    "embedding": ("uer.embeddings", "EMBEDDINGS"),
    "encoder": ("uer.encoders", "ENCODERS"),
    "decoder": ("uer.decoders", "DECODERS"),
    "target": ("uer.targets", "TARGETS"),
    "optimizer": ("uer.optim", "OPTIMIZERS"),
    "scheduler": ("uer.optim.schedules", "SCHEDULES"),
}

LARGEST_INT_BITS = 63


def settings_of(section: type) -> list[dataclasses.Field]:
    """The section's fields that are flags or keys."""
    return [field for field in dataclasses.fields(section) if "help" in field.metadata]


def families_of(section: type) -> tuple[str, ...]:
    """The families that a section's members are chosen from; () where it has none."""
    members = section.__dataclass_fields__.get("members")
    return members.metadata["families"] if members else ()


def member_classes(section: type) -> list[type]:
    """The `config_class` of every encoder, target and so on that the section can choose, each once."""
    found: dict[type, None] = {}
    for family in families_of(section):
        for member in family_members(family).values():
            found[getattr(member, "config_class", type(None))] = None
    return [known for known in found if known is not type(None)]


def expanded(sections: Sequence[type]) -> list[type]:
    """The sections, and their members' classes behind each."""
    return [part for section in sections for part in (section, *member_classes(section))]


def fields_by_name(sections: Sequence[type]) -> dict[str, dataclasses.Field]:
    """The fields of all sections that are flags or keys, by their names; no two may share one."""
    fields: dict[str, dataclasses.Field] = {}
    for section in sections:
        for field in settings_of(section):
            # Classes that inherit from one that several members share have its very fields.
            known = fields.setdefault(field.name, field)
            assert known is field, f"two sections share the flag --{field.name}"
    return fields


def build_section(section: type, values: Mapping[str, Any]) -> Any:
    """The section with the given values; settings of its chosen members that are not given have their defaults."""
    built = section(**{field.name: values[field.name] for field in settings_of(section) if field.name in values})
    if not families_of(section):
        return built
    own = fields_by_name(member_classes(section))
    given = {name: value for name, value in {**section.member_defaults, **values}.items() if name in own}
    built = dataclasses.replace(built, members=given)
    defaults = {field.name: getattr(built.of(known), field.name)
                for known in chosen_classes(built) for field in settings_of(known)}
    return dataclasses.replace(built, members={**given, **defaults})


def _chosen(built: Any) -> list[type]:
    """The members that a built section has chosen, without those that are unknown."""
    found = []
    for family in families_of(type(built)):
        names, table = getattr(built, family), family_members(family)
        found += [table[name] for name in (names if isinstance(names, tuple) else (names,)) if name in table]
    return found


def chosen_classes(built: Any) -> list[type]:
    """The `config_class` of each member that a built section has chosen."""
    classes = dict.fromkeys(getattr(member, "config_class", type(None)) for member in _chosen(built))
    return [known for known in classes if known is not type(None)]


def problems_of(part: Any) -> list[str]:
    """The problems that a section, its members' settings and the members themselves report."""
    parts = [part, *(part.of(known) for known in chosen_classes(part))]
    lines = [line for each in parts if hasattr(each, "problems") for line in each.problems()]
    return lines + [line for member in _chosen(part) if hasattr(member, "problems") for line in member.problems(part)]


def read_section(section: type, path: str, flag: str) -> Any:
    """A config class from a JSON config file, such as another model's settings.

    Args:
        path: the file.
        flag: the flag that names it, for the messages.

    Raises:
        UserError: the file cannot be read, or what it says is wrong.
    """
    fields = fields_by_name(expanded([section]))
    values = file_values(fields, path, flag)
    check_values(fields, values, file_flag=flag)
    built = build_section(section, values)
    problems = problems_of(built)
    if problems:
        raise UserError(f"{flag} {path}: {'; '.join(problems)}")
    return built


def from_json(section: type, content: Any, path: str) -> Any:
    """A config class from a JSON object that a file of ours holds, such as the settings of a saved model.

    Raises:
        UserError: it is no object, has a key that the class has not, a value of the wrong kind, or contradictions.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object is needed, not {type(content).__name__}")
    fields = fields_by_name(expanded([section]))
    for key in content.keys() - fields.keys():
        raise UserError(f"{path}: unknown key '{key}'")
    built = build_section(section, {key: _convert(fields[key], value, path) for key, value in content.items()})
    problems = problems_of(built)
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")
    return built


def file_values(fields: Mapping[str, dataclasses.Field], path: str, flag: str) -> dict[str, Any]:
    """A JSON file's values for some fields; keys of other commands are known and passed over."""
    content = read_json_object(path, flag)
    sections = [section for section in vars(config_module).values() if dataclasses.is_dataclass(section)]
    known = {field.name: field for section in expanded(sections) for field in settings_of(section)}
    _require_known(content, known, path)
    return {key: _convert(fields[key], value, path) for key, value in content.items() if key in fields}


def check_values(fields: dict[str, dataclasses.Field], values: dict[str, Any], from_flags: Collection[str] = (),
                 file_flag: str = "--config_path") -> None:
    """Check that every value is one of its field's choices.

    A family's names are checked here only where the command line gives them: a config file serves several commands, and
    one that uses the named part checks it when it builds it.

    Args:
        from_flags: the names of the values that are from the command line; the others are from a config file.
        file_flag: the flag that names this file, for the message.
    """
    for name, value in values.items():
        metadata = fields[name].metadata
        source = f"--{name}" if name in from_flags else f"{name} in {file_flag}"
        items = value if isinstance(value, tuple) else (value,)
        if metadata["family"] and name in from_flags:
            for item in items:
                choose(family_members(metadata["family"]), item, source)
        elif metadata["choices"]:
            table = dict.fromkeys(metadata["choices"])
            for item in items:
                choose(table, item, source)


def _convert(field: dataclasses.Field, value: Any, path: str) -> Any:
    kind, many = kind_of(field)
    if value is None and type(None) in typing.get_args(field.type):
        return None
    if kind is dict and isinstance(value, dict):
        return _stream(value, f"{path}: {field.name}")
    if many and isinstance(value, (list, tuple)):
        return tuple(_convert_one(field.name, kind, item, path) for item in value)
    if many and isinstance(value, dict):
        raise UserError(f"{path}: '{field.name}' must be {kind.__name__} or a list of {kind.__name__}, not "
                        f"{json.dumps(value, ensure_ascii=False)}")
    converted = _convert_one(field.name, kind, value, path)
    return (converted,) if many else converted


def _stream(content: dict[str, Any], path: str) -> dict[str, Any]:
    """`stream_0` or `stream_1` of a model, whose keys and values are those of a model's settings."""
    fields = fields_by_name(expanded([config_module.ModelConfig]))
    others = {key: value for key, value in content.items() if key in config_module.STREAM_ONLY}
    known = {key: value for key, value in content.items() if key not in others}
    _require_known(known, fields, path)
    values = {key: _convert(fields[key], value, path) for key, value in known.items()}
    check_values(fields, values)
    return {**others, **values}


def _require_known(content: Mapping[str, Any], known: Mapping[str, Any], path: str) -> None:
    """See that a file has no other keys than these; the message names the nearest."""
    for key in content:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise UserError(f"{path}: unknown key '{key}'{hint}")


def _convert_one(name: str, kind: type, value: Any, path: str) -> Any:
    """`value` as `kind`: whole numbers serve as floats; "true" and "false" as booleans, as UER-py's files have them."""
    if kind is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)) or (
            kind is int and value.bit_length() > LARGEST_INT_BITS):
        raise UserError(f"{path}: '{name}' must be {kind.__name__}, not {json.dumps(value, ensure_ascii=False)}")
    return value


def kind_of(field: dataclasses.Field) -> tuple[type, bool]:
    """`str | None` -> (str, False); `tuple[int, ...]` -> (int, True)."""
    annotation = field.type
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0], True
    return annotation, False


def family_members(family: str) -> dict[str, Any]:
    """The table of a family: name -> member."""
    module_name, table = FAMILIES[family]
    return getattr(importlib.import_module(module_name), table)
