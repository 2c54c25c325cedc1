"""The command line: makes argparse flags from the dataclasses of `uer.config`. No other module imports argparse.

A value on the command line has precedence over the JSON file of `--config_path`, and this over the field's default.
"""

import argparse
import dataclasses
import difflib
import importlib
import inspect
import json
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uer import config as config_module
from uer.config import REQUIRED
from uer.errors import UserError
from uer.json_files import read_json_object
from uer.paths import path_problems
from uer.registry import choose
from uer.terminal import output_error, tolerate_encodings

# For each `family` of a field: the module, its table of valid values, and its list of names that are planned.
FAMILIES = {
    "tokenizer": ("uer.tokenizers", "TOKENIZERS", "PLANNED"),
    "tgt_tokenizer": ("uer.tokenizers", "TOKENIZERS", "PLANNED"),
    "data_processor": ("uer.data.processors", "PROCESSORS", "PLANNED"),
    "hidden_act": ("uer.layers.activations", "ACTIVATIONS", ""),
    "embedding": ("uer.embeddings", "EMBEDDINGS", "PLANNED"),
    "encoder": ("uer.encoders", "ENCODERS", "PLANNED"),
    "decoder": ("uer.decoders", "DECODERS", "PLANNED"),
    "target": ("uer.targets", "TARGETS", "PLANNED"),
    "optimizer": ("uer.optim", "OPTIMIZERS", ""),
    "scheduler": ("uer.optim.schedules", "SCHEDULES", ""),
}

LARGEST_INT_BITS = 63
BROKEN_PIPE_STATUS = 141


def parse(description: str, sections: Sequence[type], argv: Sequence[str] | None = None) -> list[Any]:
    """Read the command line into one frozen dataclass for each of `sections`, in their order.

    Args:
        description: the first line of `--help`.
        sections: config classes; no two may share a field name.
        argv: the arguments; those of the process when None.

    Raises:
        UserError: an unknown flag or JSON key, a value of the wrong kind, a missing required flag, an unreadable
            config file, settings that contradict one another, or an output that is an input (all in one message).
    """
    fields = _fields_by_name(_expanded(sections))
    helping = not {"-h", "--help"}.isdisjoint(sys.argv[1:] if argv is None else argv)
    given = _parse_flags(_parser(description, sections, fields, helping), fields, argv)
    from_file = _read_config_file(fields, given)
    values = {**from_file, **given}
    _check_values(fields, values, set(given))
    built = [_build(section, values) for section in sections]
    members = [part.of(known) for part in built for known in chosen_classes(part)]  # with paths of their own
    problems = [line for part in built for line in _problems(part)] + path_problems([*built, *members])
    if problems:
        raise UserError("; ".join(problems))
    return built


def run(main: Callable[[], Any]) -> None:
    """Run an entry script: a `UserError` becomes one line on stderr and status 2.

    Ctrl-C gives status 130. An `OSError` with a reason, such as a full disk or an unreadable file, is one line too,
    since the user can correct it. If the reader of standard output has ended (`| head`), the script ends without a
    message and with status 141, as a shell reports SIGPIPE. Any other exception is a bug and keeps its traceback.
    """
    tolerate_encodings()
    try:
        main()
        _finish_output(None)
    except SystemExit:
        _finish_output(None)
        raise
    except UserError as error:
        output_error()
        _fail(str(error))
    except KeyboardInterrupt:
        output_error()
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            _finish_output(error)
        if error.strerror is None:
            raise
        _fail(f"{_shown_name(error.filename)}: {error.strerror}" if error.filename else error.strerror)


def _finish_output(failed: OSError | None) -> None:
    """Flush standard output; if that fails, end the script.

    Args:
        failed: an error without a file name that may have come from printing.
    """
    error = output_error()
    if isinstance(failed or error, BrokenPipeError):
        sys.exit(BROKEN_PIPE_STATUS)
    if error is not None:
        _fail(f"standard output: {error.strerror}")


def _shown_name(name: Any) -> str:
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else str(name)


def _fail(message: str) -> typing.NoReturn:
    print("error: " + " ".join(message.split("\n")), file=sys.stderr)
    sys.exit(2)


def _settings(section: type) -> list[dataclasses.Field]:
    """The section's fields that are flags or keys."""
    return [field for field in dataclasses.fields(section) if "help" in field.metadata]


def _families(section: type) -> tuple[str, ...]:
    """The families that a section's members are chosen from; () where it has none."""
    members = section.__dataclass_fields__.get("members")
    return members.metadata["families"] if members else ()


def member_classes(section: type) -> list[type]:
    """The `config_class` of every encoder, target and so on that the section can choose, each once."""
    found: dict[type, None] = {}
    for family in _families(section):
        for member in _family(family)[0].values():
            found[getattr(member, "config_class", type(None))] = None
    return [known for known in found if known is not type(None)]


def _expanded(sections: Sequence[type]) -> list[type]:
    """The sections, and their members' classes behind each."""
    return [part for section in sections for part in (section, *member_classes(section))]


def _fields_by_name(sections: Sequence[type]) -> dict[str, dataclasses.Field]:
    fields: dict[str, dataclasses.Field] = {}
    for section in sections:
        for field in _settings(section):
            # Classes that inherit from one that several members share have its very fields. A flag that is not built
            # yet is replaced by that of the first member that declares it.
            known = fields.setdefault(field.name, field)
            if known.metadata["planned"]:
                fields[field.name] = field
            else:
                assert known is field, f"two sections share the flag --{field.name}"
    return fields


def _build(section: type, values: Mapping[str, Any]) -> Any:
    """The section with the given values; settings of its chosen members that are not given have their defaults."""
    built = section(**{field.name: values[field.name] for field in _settings(section) if field.name in values})
    if not _families(section):
        return built
    given = {name: values[name] for name in _fields_by_name(member_classes(section)) if name in values}
    built = dataclasses.replace(built, members=given)
    defaults = {field.name: getattr(built.of(known), field.name)
                for known in chosen_classes(built) for field in _settings(known)}
    return dataclasses.replace(built, members={**given, **defaults})


def _chosen(built: Any) -> list[type]:
    """The members that a built section has chosen, without those that are not built yet."""
    found = []
    for family in _families(type(built)):
        names, table = getattr(built, family), _family(family)[0]
        found += [table[name] for name in (names if isinstance(names, tuple) else (names,)) if name in table]
    return found


def chosen_classes(built: Any) -> list[type]:
    """The `config_class` of each member that a built section has chosen."""
    classes = dict.fromkeys(getattr(member, "config_class", type(None)) for member in _chosen(built))
    return [known for known in classes if known is not type(None)]


def _problems(part: Any) -> list[str]:
    """The problems that a section, its members' settings and the members themselves report."""
    parts = [part, *(part.of(known) for known in chosen_classes(part))]
    lines = [line for each in parts if hasattr(each, "problems") for line in each.problems()]
    return lines + [line for member in _chosen(part) if hasattr(member, "problems") for line in member.problems(part)]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        hint = "; a value that begins with '-' is read as a flag" if "expected" in message else ""
        raise UserError(f"{message}{hint} (--help lists the flags)")


def _parser(description: str, sections: Sequence[type], fields: dict[str, dataclasses.Field],
            helping: bool) -> _Parser:
    """A parser with a group of flags for each section, and the planned flags at the end. The usage line shows the flags
    that are required."""
    required = [f"--{name} {_metavar(field)}" for name, field in fields.items() if field.default is REQUIRED]
    parser = _Parser(description=description, usage=" ".join(["%(prog)s", *required, "[flags]"]), allow_abbrev=False,
                     argument_default=argparse.SUPPRESS, formatter_class=argparse.RawTextHelpFormatter)
    groups: dict[type, Any] = {}
    shown = {name: field for name, field in fields.items() if not field.metadata["file_only"]}
    for field, section in _declared(sections, shown):
        if not field.metadata["planned"]:
            if section not in groups:
                title = (section.__doc__ or section.__name__).partition("\n")[0].rstrip(".")
                groups[section] = parser.add_argument_group(title)
            _add_flag(groups[section], field, helping)
    planned = [field for field in shown.values() if field.metadata["planned"]]
    if planned:
        group = parser.add_argument_group("Not built yet: accepted for UER-py's commands, without effect")
        for field in planned:
            _add_flag(group, field, helping)
    return parser


def _declared(sections: Sequence[type],
              shown: Mapping[str, dataclasses.Field]) -> list[tuple[dataclasses.Field, type]]:
    """Every field with the class that declares it, which several sections may inherit from; each once."""
    found: dict[str, tuple[dataclasses.Field, type]] = {}
    for section in _expanded(sections):
        for field in _settings(section):
            if shown.get(field.name) is field and field.name not in found:
                found[field.name] = (field, next(known for known in reversed(section.__mro__)
                                                 if field.name in inspect.get_annotations(known)))
    return list(found.values())


def _parse_flags(parser: _Parser, fields: dict[str, dataclasses.Field], argv: Sequence[str] | None) -> dict[str, Any]:
    namespace, unknown = parser.parse_known_args(argv)
    given = vars(namespace)
    for field in fields.values():
        if field.metadata["positional"] and field.name not in given:
            values = [argument for argument in unknown if not argument.startswith("-")]
            unknown = [argument for argument in unknown if argument.startswith("-")]
            given |= {field.name: values} if values else {}
    for argument in unknown:
        close = difflib.get_close_matches(argument.lstrip("-"), fields, n=1)
        hint = f"; did you mean --{close[0]}?" if close else " (--help lists the flags)"
        raise UserError(f"unknown argument '{argument}'{hint}")
    for field in fields.values():
        if field.default is REQUIRED and field.name not in given:
            raise UserError(f"--{field.name} is required (--help lists the flags)")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _add_flag(parser: argparse._ArgumentGroup, field: dataclasses.Field, helping: bool) -> None:
    """Add one flag; the names of a family, whose import may take seconds, are looked up only for `--help`."""
    kind, many = _kind(field)
    help_text = field.metadata["help"].replace("%", "%%") + " (The flag may be omitted.)" * field.metadata["positional"]
    if helping and field.metadata["family"]:
        help_text += f" One of: {', '.join(_family(field.metadata['family'])[0]) or 'none is built yet'}."
    if field.default is REQUIRED:
        help_text += " (required)"
    elif field.default not in (None, ()):
        shown = " ".join(map(str, field.default)) if many else field.default
        help_text += f" (default: {shown})"
    name = f"--{field.name}"
    if kind is bool and field.default is False:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, help=help_text)
    elif kind is bool:
        parser.add_argument(name, type=_true_or_false, metavar="{true,false}", help=help_text)
    else:
        convert = {int: _whole_number, float: _finite_number}.get(kind, kind)
        parser.add_argument(name, type=convert, nargs="+" if many else None, metavar=_metavar(field), help=help_text)


def _metavar(field: dataclasses.Field) -> str:
    if field.metadata["choices"]:
        return "{" + ",".join(field.metadata["choices"]) + "}"
    if field.name.endswith(("_path", "_dir", "_dict")):
        return "PATH"
    return {int: "N", float: "X"}.get(_kind(field)[0], "NAME")


def _whole_number(text: str) -> int:
    """An int that tensors can hold."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
    if value.bit_length() > LARGEST_INT_BITS:
        raise argparse.ArgumentTypeError(f"{text} is too large")
    return value


def _finite_number(text: str) -> float:
    """A float that compares with others: not nan, not inf."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def _true_or_false(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return text.lower() == "true"


def _kind(field: dataclasses.Field) -> tuple[type, bool]:
    """`str | None` -> (str, False); `tuple[int, ...]` -> (int, True)."""
    annotation = field.type
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0], True
    return annotation, False


def _family(family: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    module_name, table, planned = FAMILIES[family]
    module = importlib.import_module(module_name)
    return getattr(module, table), tuple(getattr(module, planned)) if planned else ()


def _read_config_file(fields: dict[str, dataclasses.Field], given: dict[str, Any]) -> dict[str, Any]:
    """The JSON file's values for the fields of this command, where it has --config_path."""
    if "config_path" not in fields:
        return {}
    path = given.get("config_path", fields["config_path"].default)
    return _file_values(fields, path, "--config_path") if path else {}


def _file_values(fields: Mapping[str, dataclasses.Field], path: str, flag: str) -> dict[str, Any]:
    """A JSON file's values for some fields; keys of other commands are known and passed over."""
    content = read_json_object(path, flag)
    sections = [section for section in vars(config_module).values() if dataclasses.is_dataclass(section)]
    known = {field.name: field for section in _expanded(sections) for field in _settings(section)}
    values = {}
    for key, value in content.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise UserError(f"{path}: unknown key '{key}'{hint}")
        if key in fields:
            values[key] = _convert(fields[key], value, path)
    return values


def read_section(section: type, path: str, flag: str) -> Any:
    """A config class from a JSON config file, such as another model's settings.

    Args:
        path: the file.
        flag: the flag that names it, for the messages.

    Raises:
        UserError: the file cannot be read, or what it says is wrong.
    """
    fields = _fields_by_name(_expanded([section]))
    values = _file_values(fields, path, flag)
    _check_values(fields, values, set())
    built = _build(section, values)
    problems = _problems(built)
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
    fields = _fields_by_name(_expanded([section]))
    for key in content.keys() - fields.keys():
        raise UserError(f"{path}: unknown key '{key}'")
    built = _build(section, {key: _convert(fields[key], value, path) for key, value in content.items()})
    problems = _problems(built)
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")
    return built


def _convert(field: dataclasses.Field, value: Any, path: str) -> Any:
    kind, many = _kind(field)
    if value is None and type(None) in typing.get_args(field.type):
        return None
    if many and isinstance(value, (list, tuple)):
        return tuple(_convert_one(field.name, kind, item, path) for item in value)
    if many and isinstance(value, dict):
        raise UserError(f"{path}: '{field.name}' must be {kind.__name__} or a list of {kind.__name__}, not "
                        f"{json.dumps(value, ensure_ascii=False)}")
    converted = _convert_one(field.name, kind, value, path)
    return (converted,) if many else converted


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


def _check_values(fields: dict[str, dataclasses.Field], values: dict[str, Any], from_flags: set[str]) -> None:
    """Every value is one of its field's choices; says 'not built yet' of the names that UER-py knows.

    A family's names are checked here only where the command line gives them: a config file serves several commands, and
    one that uses the named part checks it when it builds it.
    """
    for name, value in values.items():
        metadata = fields[name].metadata
        source = f"--{name}" if name in from_flags else f"{name} in --config_path"
        items = value if isinstance(value, tuple) else (value,)
        if metadata["family"] and name in from_flags:
            table, planned = _family(metadata["family"])
            for item in items:
                choose(table, item, source, planned)
        elif metadata["choices"]:
            table = dict.fromkeys(metadata["choices"])
            for item in items:
                choose(table, item, source)
