"""Reads JSON files, with limits for their size and depth and with the file and line in every error.

Every JSON file of the toolkit is read here. `json_text` is the opposite: JSON text for files.
"""

import json
import os
import re
from typing import Any

from uer.errors import UserError
from uer.reading import read_bytes

# Settings, indexes, vocabularies: the largest real one, a Hugging Face tokenizer of 250,000 entries, has 17 MB.
SETTINGS_BYTES = 1 << 28
# Examples in one JSON document, such as SQuAD's: 40 MB. More would not fit into memory as Python objects.
DATA_BYTES = 1 << 32
# SQuAD's files have 8 levels. Python's own limit depends on the depth of the call stack and on its version.
DEEPEST = 100

_HALF_PAIR = re.compile("[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: str | os.PathLike, flag: str = "", most: int = SETTINGS_BYTES) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        flag: the flag that names it, for the message.
        most: bytes that it may have.

    Raises:
        UserError: the file is missing, no regular file, too large, not UTF-8, not JSON, nested too deeply, or holds
            half of a surrogate pair; names the file and the line.
    """
    name = f"{flag} {os.fspath(path)}" if flag else os.fspath(path)
    content = read_bytes(path, flag, most)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}:{line}: not UTF-8, so not JSON") from None
    return parse_json(text, name)


def read_json_object(path: str | os.PathLike, flag: str = "") -> dict[str, Any]:
    """The JSON object in a file; errors as `read_json`."""
    content = read_json(path, flag)
    if not isinstance(content, dict):
        name = f"{flag} {os.fspath(path)}" if flag else os.fspath(path)
        raise UserError(f"{name}: a JSON object is needed, not {type(content).__name__}")
    return content


def parse_json(text: str | bytes, path: str | os.PathLike, line: int = 0, half_pairs: bool = False) -> Any:
    """The value that a JSON text holds.

    Args:
        text: the JSON.
        path: where it stands, for the message.
        line: its line there, counted from 1; 0 where it is a whole file.
        half_pairs: strings may hold half of a surrogate pair (`"\\ud800"`), which is no character.

    Raises:
        UserError: it is no JSON, nested deeper than `DEEPEST`, has half of a surrogate pair, or an object in it has
            two values for one key.
    """
    where = f"{os.fspath(path)}:{line}" if line else os.fspath(path)
    try:
        text = text.decode("utf-8", "surrogatepass") if isinstance(text, bytes) else text
        content = _DECODER.decode(text)
    except _TwoValuesError as error:
        raise UserError(f"{where}: the key '{error}' stands twice in one object, with different values") from None
    except json.JSONDecodeError as error:
        at = where if line else f"{where}:{error.lineno}"
        raise UserError(f"{at}: not JSON: {error.msg}") from None
    except ValueError as error:  # bytes that are not UTF-8, a number of thousands of digits
        raise UserError(f"{where}: not JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply") from None
    if _deeper_than(content, DEEPEST):
        raise UserError(f"{where}: JSON nested too deeply: more than {DEEPEST} levels")
    if not half_pairs:
        _refuse_half_pairs(text, content, where, bool(line))
    return content


def json_text(content: Any, **layout: Any) -> str:
    """JSON text that can be encoded as UTF-8: non-ASCII characters stay as they are, halves of surrogate pairs do not.

    A file name whose bytes are not UTF-8 has half pairs in Python; they are written as the six characters `\\udcb5`.

    Args:
        layout: `indent` and the like, as `json.dumps` takes them.
    """
    text = json.dumps(content, ensure_ascii=False, **layout)
    return _HALF_PAIR.sub(lambda match: f"\\\\u{ord(match[0]):04x}", text)


class _TwoValuesError(Exception):
    """Names a key that has two values."""


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The dictionary of an object; a key that stands there again with the same value does no harm.

    Raises:
        _TwoValuesError: a key has two values; the `json` module itself would take the last in silence.
    """
    found = dict(pairs)
    if len(found) < len(pairs) and (twice := [key for key, value in pairs if found[key] != value]):
        raise _TwoValuesError(twice[0])
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object_of)


def _deeper_than(content: Any, levels: int) -> bool:
    """Whether lists and objects lie inside one another more than so many times; level by level, without recursion."""
    level = [content] if isinstance(content, (dict, list)) else []
    for _ in range(levels):
        if not level:
            return False
        level = [child for node in level for child in (node.values() if isinstance(node, dict) else node)
                 if isinstance(child, (dict, list))]
    return bool(level)


def _refuse_half_pairs(text: str, content: Any, where: str, one_line: bool) -> None:
    """Check that no string has half of a surrogate pair.

    Raises:
        UserError: one has; names the line of the first escape that may be it.
    """
    found = _ESCAPED_HALF.search(text) or _HALF_PAIR.search(text)
    if found is None or not _HALF_PAIR.search(json.dumps(content, ensure_ascii=False)):
        return
    if not one_line:
        halves = re.finditer(r"(\\u[dD][89abAB]..)?(\\u[dD][c-fC-F]..)?", text)
        first = next((match for match in halves if bool(match[1]) != bool(match[2])), found)
        where += f":{text.count(chr(10), 0, first.start()) + 1}"
    raise UserError(f"{where}: a string holds half of a surrogate pair, which is no character")
