"""Files of examples -> tables of columns, with the line every row came from.

Three formats, told apart by their content:
- UER's TSV: a header that names `text_a` and any of `label`, `text_b`, `logits`; without one, --columns names them;
- JSON lines, with the same names or those of CLUE's files (`sentence`, `sentence1`, `sentence2`);
- lcqmc as published: no header, three columns: two texts and 0 or 1.

A row that does not fit stops the run with one line that names the file and the row's line.
"""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from uer import json_files
from uer.errors import UserError
from uer.reading import require_regular

# CLUE's names for our columns.
JSON_NAMES = {"sentence": "text_a", "sentence1": "text_a", "sentence2": "text_b"}
# OCNLI's annotators did not agree on these.
NO_LABEL = "-"
# A header's names of columns count as these with spaces around them and with capitals too.
HEADER_NAMES = ("label", "text_a", "text_b", "logits", "qid")
NUMBER = re.compile(r"-?\d+(\.\d*)?")
GUESSED_LINES = 200  # are looked at to propose names for columns
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Of a file that is read in pieces: a table of so much, its token ids and its outputs take some 100 MB.
PIECE_ROWS, PIECE_CHARACTERS = 1 << 15, 1 << 24
HALF_PAIR = re.compile("[\ud800-\udfff]")


@dataclass
class Table:
    """The columns of a file of examples.

    Attributes:
        path: the file.
        lines: the line of each row in the file, counted from 1.
        columns: the texts of each column by its name, one for each row.
        skipped: what was left out, and how often.
        hash: SHA-256 of the file in hex.
    """

    path: str
    lines: list[int]
    columns: dict[str, list[str]]
    skipped: Counter[str] = field(default_factory=Counter)
    hash: str = ""

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> list[str]:
        return self.columns[name]

    def get(self, name: str) -> list[str] | None:
        """The column, or None where the file has none of this name."""
        return self.columns.get(name)

    def error(self, row: int, message: str) -> UserError:
        """An error that names the file and the line of row `row`."""
        return UserError(f"{self.path}:{self.lines[row]}: {message}")


def read_table(path: str, required: Sequence[str], optional: Sequence[str] = (),
               columns: Sequence[str] = ()) -> Table:
    """Read the columns `required`, and those of `optional` that the file has.

    Args:
        path: the file.
        required, optional: names of columns.
        columns: names of all columns of a TSV without a header; a file that has a header is read by it.

    Rows whose label is "-" (OCNLI's for "no agreement") and blank lines are left out and counted in `skipped`.

    Raises:
        UserError: the file is missing, empty or not UTF-8; a column is missing; a row does not fit.
    """
    table, = read_tables(path, required, optional, columns, None, None)
    return table


def read_tables(path: str, required: Sequence[str], optional: Sequence[str] = (), columns: Sequence[str] = (),
                most_rows: int | None = PIECE_ROWS, most_characters: int | None = PIECE_CHARACTERS) -> Iterator[Table]:
    """The same in tables of at most `most_rows` rows, or few more than `most_characters` characters, for files that do
    not fit into memory.

    All of them share `skipped`; it, and the hash of the last one, are those of the file.
    """
    digest, skipped, known, characters = hashlib.sha256(), Counter(), None, 0
    lines = read_lines(path, skipped, digest)
    table = Table(path, [], {}, skipped)
    for number, record in _records(path, lines, required, optional, columns):
        if "label" in required and record["label"].strip() == NO_LABEL:
            skipped["unlabelled row"] += 1
            continue
        known = known or record.keys()
        if record.keys() != known:
            raise UserError(f"{path}:{number}: " + (f"a '{min(record.keys() - known)}', which earlier rows lack"
                                                    if record.keys() - known else
                                                    f"no '{min(known - record.keys())}', which earlier rows have"))
        if len(table) == most_rows or (most_characters is not None and characters >= most_characters):
            yield table
            table, characters = Table(path, [], {}, skipped), 0
        table.lines.append(number)
        for name, value in record.items():
            table.columns.setdefault(name, []).append(value)
            characters += len(value)
    if not table.lines:
        raise UserError(f"{path}: no example in the file")
    table.hash = digest.hexdigest()
    yield table


def _records(path: str, lines: Iterator[tuple[int, str]], required: Sequence[str], optional: Sequence[str],
             columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a file with their lines, each a dict from columns to texts."""
    first = list(itertools.islice(lines, GUESSED_LINES))
    if not first:
        raise UserError(f"{path}: the file is empty")
    if first[0][1].lstrip().startswith("{"):
        return _json_records(path, itertools.chain(first, lines), required, optional)
    header, rows, source = _header(path, first, required, columns)
    return _tsv_records(path, header, itertools.chain(rows, lines), source, required, optional)


def read_lines(path: str, skipped: Counter[str], digest: Any = None) -> Iterator[tuple[int, str]]:
    """The non-blank lines of a file with their numbers; only "\\n" ends a line.

    A "\\r" before it and a byte order mark are dropped.

    Args:
        path: the file.
        skipped: gets the number of blank lines.
        digest: an object of hashlib that gets the file's bytes.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8.
    """
    require_regular(path)
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if digest is not None:
                    digest.update(line)
                line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                try:
                    text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(f"{path}:{number}: not UTF-8 at byte {error.start + 1}") from None
                if text.strip():
                    yield number, text
                else:
                    skipped["blank line"] += 1
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def file_hash(path: str) -> str:
    """A file's SHA-256 in hex, as sha256sum shows it."""
    digest = hashlib.sha256()
    require_regular(path)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return digest.hexdigest()


def read_json(path: str) -> Any:
    """A whole JSON file of examples; errors as `uer.json_files.read_json`."""
    return json_files.read_json(path, most=json_files.DATA_BYTES)


KIND_NAMES = {str: "a text", list: "a list", dict: "an object", int: "a whole number"}


def member(content: Any, key: str, kind: type, where: str) -> Any:
    """`content[key]`, which must be there and of a kind.

    Args:
        content: what stands in a JSON file where an object is needed.
        where: the file and the place in it, for the message.

    Raises:
        UserError: `content` is no object, or the key is missing or of another kind.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where} must be an object with '{key}', not {_kind_name(content)}")
    if key not in content:
        raise UserError(f"{where}: '{key}' is missing")
    if not isinstance(content[key], kind) or (kind is int and isinstance(content[key], bool)):
        raise UserError(f"{where}: '{key}' must be {KIND_NAMES[kind]}, not {_kind_name(content[key])}")
    return content[key]


def require_different(names: Sequence[str], message: str) -> None:
    """See that no name occurs twice: predictions are a JSON object whose keys they are.

    Raises:
        UserError: one does; `message` and the name.
    """
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{message} {repeated[0]}; the prediction file holds one for each")


def _kind_name(value: Any) -> str:
    return "null" if value is None else KIND_NAMES.get(type(value), type(value).__name__)


def _json_records(path: str, lines: Iterable[tuple[int, str]], required: Sequence[str],
                  optional: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    wanted = {*required, *optional}
    for number, line in lines:
        content = json_files.parse_json(line, path, number, half_pairs=True)
        if not isinstance(content, dict):
            raise UserError(f"{path}:{number}: a JSON object is needed on every line")
        record = {}
        for key, value in content.items():
            name = JSON_NAMES.get(key, key)
            if name in wanted and value is not None:
                record[name] = _json_text(value, path, number, key)
        _require(required, record, path, number)
        yield number, record


def _json_text(value: Any, path: str, number: int, key: str) -> str:
    """A JSON value as the text a TSV would hold: numbers as digits, a list as words with spaces between."""
    if isinstance(value, str):
        if HALF_PAIR.search(value):
            raise UserError(f"{path}:{number}: '{key}' holds half of a surrogate pair, which is no character")
        return value
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        return " ".join(_json_text(item, path, number, key) for item in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{path}:{number}: '{key}' must be a string or a number, not {type(value).__name__}")


def _tsv_records(path: str, header: Sequence[str], lines: Iterable[tuple[int, str]], source: str,
                 required: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    _require(required, header, path, 1)
    if shared := [name for name, number in Counter(header).items() if number > 1]:
        raise UserError(f"{path}:1: the header names a column twice: {shared[0]}")
    wanted = {*required, *optional}
    for number, line in lines:
        values = line.split("\t")
        if len(values) != len(header):
            raise UserError(f"{path}:{number}: {len(values)} columns where {source} has {len(header)} "
                            f"({', '.join(header)})")
        yield number, {name: value for name, value in zip(header, values) if name in wanted}


def _header(path: str, lines: list[tuple[int, str]], required: Sequence[str],
            columns: Sequence[str]) -> tuple[Sequence[str], list[tuple[int, str]], str]:
    """The names of a TSV's columns, those of its first lines that hold rows, and what the names come from."""
    if "\r" in lines[0][1]:
        raise UserError(f"{path}:1: a carriage return inside the line; lines must end with a line feed")
    first = [_header_name(cell) for cell in lines[0][1].split("\t")]
    if "text_a" in first or "label" in first:
        return first, lines[1:], "the header"
    if columns:
        return columns, lines, "--columns"
    if len(first) == 3 and first[2].strip() in ("0", "1"):
        return ("text_a", "text_b", "label"), lines, "lcqmc"
    guessed = guess_columns([line for _, line in lines], required)
    if guessed:
        are = f"columns are {' and '.join(guessed)}" if len(guessed) > 1 else f"only column is {guessed[0]}"
        raise UserError(f"{path}:1: no header; if its {are}: --columns {' '.join(guessed)}")
    hint = ("; JSON needs an object on every line, not a list" if first[0].lstrip().startswith("[")
            else "; columns have tabs between them" if len(first) == 1 else "")
    raise UserError(f"{path}:1: no header: the first line, or --columns, must name the columns, such as label and "
                    f"text_a{hint}")


def _header_name(cell: str) -> str:
    """What a cell of a header names: ` Text_A` is `text_a`."""
    name = cell.strip().lower()
    return name if name in HEADER_NAMES else cell


def guess_columns(lines: Sequence[str], required: Sequence[str]) -> list[str]:
    """What the columns of a TSV without a header may be called; none where its rows are of no use.

    The label is taken to be the column with the fewest different words, numbers before other words; longer columns
    are texts.

    >>> guess_columns(["1\\tgood book", "0\\tbad", "1\\tfine"], ("label", "text_a"))
    ['label', 'text_a']
    """
    rows = [line.split("\t") for line in lines]
    count = len(rows[0])
    if any(len(row) != count for row in rows):
        return []
    columns = list(zip(*rows))
    order = sorted(range(count), key=lambda column: _label_likeness(columns[column]))
    kinds = [len({word for value in columns[column] for word in value.split()}) for column in order]
    labelled = "label" in required or (count > 1 and kinds[0] * 2 <= kinds[-1])
    names = ["label"] * labelled + [name for name in ("text_a", "text_b") if name in required or count > 1]
    if any(name not in names[:count] for name in required):
        return []
    chosen, texts = order[:labelled], sorted(order[labelled:], key=lambda column: -_length(columns[column]))[:2]
    found = [f"column_{column + 1}" for column in range(count)]
    for name, column in zip(names, [*chosen, *sorted(texts)]):
        found[column] = name
    return found


def _label_likeness(values: Sequence[str]) -> tuple[bool, int, float]:
    """Smaller for a column that is likelier to hold labels."""
    counts = len({word for value in values for word in value.split()})
    is_number = all(NUMBER.fullmatch(value.strip()) for value in values)
    numbered = is_number and [value.strip() for value in values] in (
        [str(number) for number in range(start, start + len(values))] for start in (0, 1))
    return not is_number or (numbered and len(values) > 1), counts, _length(values)


def _length(values: Sequence[str]) -> float:
    """The mean number of characters."""
    return sum(map(len, values)) / len(values)


def _require(required: Sequence[str], found: Sequence[str] | dict[str, str], path: str, number: int) -> None:
    for name in required:
        if name not in found:
            aliases = [key for key, value in JSON_NAMES.items() if value == name]
            also = f" (or {', '.join(aliases)})" if aliases and isinstance(found, dict) else ""
            raise UserError(f"{path}:{number}: no column '{name}'{also}; found: {', '.join(found) or 'none'}")
