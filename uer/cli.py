"""The command line: makes argparse flags from the dataclasses of `uer.config`. No other module imports argparse.

A value on the command line has precedence over the JSON file of `--config_path`, and this over the field's default.
"""

import argparse
import dataclasses
import difflib
import functools
import inspect
import math
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uer.config import REQUIRED
from uer.errors import UserError
from uer.paths import path_problems
from uer.runtime.threads import set_waiting_policy
from uer.sections import (
    LARGEST_INT_BITS,
    build_section,
    check_values,
    chosen_classes,
    expanded,
    family_members,
    fields_by_name,
    file_values,
    kind_of,
    problems_of,
    settings_of,
)
from uer.terminal import BROKEN_PIPE_STATUS, output_error, tolerate_encodings


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
    fields = fields_by_name(expanded(sections))
    helping = not {"-h", "--help"}.isdisjoint(sys.argv[1:] if argv is None else argv)
    given = _parse_flags(_parser(description, sections, fields, helping), fields, argv)
    from_file = _read_config_file(fields, given)
    values = {**from_file, **given}
    check_values(fields, values, set(given))
    built = [build_section(section, values) for section in sections]
    members = [part.of(known) for part in built for known in chosen_classes(part)]  # with paths of their own
    problems = [line for part in built for line in problems_of(part)] + path_problems([*built, *members])
    if problems:
        raise UserError("; ".join(problems))
    return built


def words_of(values: Mapping[str, Any], sections: Sequence[type]) -> list[str]:
    """The command line that gives `sections` these values; None leaves a flag out, a list is several words.

    Of true and false, `{"use_adv": False, "do_lower_case": False}` becomes `--no-use_adv --do_lower_case False`: a flag
    that is true by default takes a word.
    """
    fields = fields_by_name(expanded(sections))
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool) and not (name in fields and fields[name].default is True):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def run(main: Callable[[], Any]) -> None:
    """Run an entry script: a `UserError` becomes one line on stderr and status 2.

    Ctrl-C gives status 130. An `OSError` with a reason, such as a full disk or an unreadable file, is one line too,
    since the user can correct it, and so is a lack of memory. If the reader of standard output has ended (`| head`),
    the script ends without a message and with status 141, as a shell reports SIGPIPE. Any other exception is a bug and
    keeps its traceback.
    """
    tolerate_encodings()
    set_waiting_policy()
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
        if error.filename is None or isinstance(error, BrokenPipeError):
            _finish_output(error)
        output_error()
        if error.strerror is None:
            raise
        _fail(f"{_shown_name(error.filename)}: {error.strerror}" if error.filename else error.strerror)
    except (RuntimeError, MemoryError) as error:
        output_error()
        if "torch" in sys.modules:
            from uer.runtime.failures import describe

            if (failure := describe(error)).user:
                _fail(failure.message)
        raise


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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        hint = "; a value that begins with '-' is read as a flag" if "expected" in message else ""
        raise UserError(f"{message}{hint} (--help lists the flags)")


def _parser(description: str, sections: Sequence[type], fields: dict[str, dataclasses.Field],
            helping: bool) -> _Parser:
    """A parser with a group of flags for each section. The usage line shows the flags that are required."""
    required = [f"--{name} {_metavar(field)}" for name, field in fields.items() if field.default is REQUIRED]
    parser = _Parser(description=description, usage=" ".join(["%(prog)s", *required, "[flags]"]), allow_abbrev=False,
                     argument_default=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups: dict[type, Any] = {}
    shown = {name: field for name, field in fields.items() if not field.metadata["file_only"]}
    for field, section in _declared(sections, shown):
        if section not in groups:
            title = (section.__doc__ or section.__name__).partition("\n")[0].rstrip(".")
            groups[section] = parser.add_argument_group(title)
        _add_flag(groups[section], field, helping)
    return parser


def _declared(sections: Sequence[type],
              shown: Mapping[str, dataclasses.Field]) -> list[tuple[dataclasses.Field, type]]:
    """Every field with the class that declares it, which several sections may inherit from; each once."""
    found: dict[str, tuple[dataclasses.Field, type]] = {}
    for section in expanded(sections):
        for field in settings_of(section):
            if shown.get(field.name) is field and field.name not in found:
                found[field.name] = (field, next(known for known in reversed(section.__mro__)
                                                 if field.name in _own(known)))
    return list(found.values())


@functools.cache
def _own(section: type) -> dict[str, Any]:
    """The fields that a class declares itself."""
    return inspect.get_annotations(section)


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
    kind, many = kind_of(field)
    help_text = field.metadata["help"].replace("%", "%%") + " (The flag may be omitted.)" * field.metadata["positional"]
    if helping and field.metadata["family"]:
        help_text += f" One of: {', '.join(family_members(field.metadata['family']))}."
    if field.default is REQUIRED:
        help_text += " (required)"
    elif field.default not in (None, (), ""):
        shown = " ".join(map(str, field.default)) if many else field.default
        help_text += f" (default: {shown})"
    name = f"--{field.name}"
    if kind is bool and field.default is False:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, help=help_text)
    elif kind is bool:
        parser.add_argument(name, type=_true_or_false, metavar="{true,false}", help=help_text)
    else:
        convert, alone = {int: _whole_number, float: _finite_number}.get(kind, kind), field.metadata["alone"]
        nargs = "+" if many else "?" if alone else None
        parser.add_argument(name, type=convert, nargs=nargs, const=alone, metavar=_metavar(field), help=help_text)


def _metavar(field: dataclasses.Field) -> str:
    if field.metadata["choices"]:
        return "{" + ",".join(field.metadata["choices"]) + "}"
    if field.name.endswith(("_path", "_dir", "_dict")):
        return "PATH"
    return {int: "N", float: "X"}.get(kind_of(field)[0], "NAME")


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


def _read_config_file(fields: dict[str, dataclasses.Field], given: dict[str, Any]) -> dict[str, Any]:
    """The JSON file's values for the fields of this command, where it has --config_path."""
    if "config_path" not in fields:
        return {}
    path = given.get("config_path", fields["config_path"].default)
    return file_values(fields, path, "--config_path") if path else {}


