"""Turns bytes into clean lines of text: line ends, invalid UTF-8, JSON lines, tab-separated fields, very long lines.

Only "\\n" and "\\r\\n" end a line. Lines that are changed or left out are counted, and the first of them are listed.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from uer.errors import UserError

LONG_LINE = 1 << 20  # bytes; a longer line is processed in pieces
LONG_WHOLE_LINE = 1 << 24  # bytes; JSON and fields cannot be read in pieces, so a longer line is left out
KEPT_LOCATIONS = 100  # how many damaged lines are listed; all are counted
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANKS = " \t\r\v\f"


def chunks(blocks: Iterable[bytes], cut: re.Pattern[bytes], long_line: int = LONG_LINE) -> Iterator[tuple[bytes, bool]]:
    """Regroup a stream into whole lines: -> (bytes, whether the last line goes on in the next chunk).

    A line longer than `long_line` is cut into pieces of about this size, so that memory is limited. It is cut behind a
    match of `cut` (a tokenizer's `line_cuts`), or between any two characters if there is no match.
    """
    buffer, unfinished = b"", False
    for block in blocks:
        buffer += block
        end = buffer.rfind(b"\n") + 1
        if end:
            yield buffer[:end], False
            buffer, unfinished = buffer[end:], False
        while len(buffer) >= long_line:
            end = _cut_position(buffer, cut)
            yield buffer[:end], True
            buffer, unfinished = buffer[end:], True
    if buffer or unfinished:  # the last line may end, without a line feed, just where it was cut
        yield buffer, False


def _cut_position(buffer: bytes, cut: re.Pattern[bytes]) -> int:
    """Behind the last match of `cut`, searched for from the end in growing windows."""
    start, window = len(buffer), 1024
    while start > 0:
        start = max(len(buffer) - window, 0)
        ends = [match.end() for match in cut.finditer(buffer, start)]
        if ends:
            return ends[-1]
        window *= 8
    end = len(buffer)
    while end > len(buffer) - 4 and buffer[end - 1] & 0xC0 == 0x80:  # not inside a character
        end -= 1
    return end - 1 if buffer[end - 1] >= 0xC0 or buffer[end - 1] == 0x0D else end


class LineCleaner:
    """Bytes of lines to text of lines, with an account of the damage.

    Attributes:
        lines: lines seen so far.
        left_out: lines of them that gave no text because they are damaged.
        damaged: lines that are damaged in some way, those left out among them.
        damage: how many lines have which kind of damage (a line may have two).
        locations: the first damaged lines, as (line counted from 1, kind of damage).
        kept: numbers of the lines that the last text holds.
    """

    def __init__(self, path: str, encoding_errors: str = "replace", text_field: str | None = None,
                 field_counts: tuple[int, ...] = ()):
        """
        Args:
            path: the file, for messages.
            encoding_errors: what is done with bytes that are not UTF-8: "report", "replace" or "stop".
            text_field: the lines are JSON objects, and this field holds the text.
            field_counts: how many tab-separated fields a line may have; a line with another number is left out.
        """
        self.path = path
        self.encoding_errors = encoding_errors
        self.text_field = text_field
        self.field_counts = field_counts
        self.lines = 0
        self.left_out = 0
        self.damaged = 0
        self.damage: Counter[str] = Counter()
        self.locations: list[tuple[int, str]] = []
        self.kept: Sequence[int] = []
        self._continued = False  # the next chunk begins inside a line
        self._noted: dict[str, int] = {}  # the line last noted for each kind of damage

    def clean(self, data: bytes, unfinished: bool) -> str:
        """The text of a chunk, every line ended by "\\n"; `unfinished` as `chunks` says it.

        The text of a line that is left out is left out whole, line end and all.

        Raises:
            UserError: bytes are not UTF-8 and `encoding_errors` is "stop".
        """
        if b"\r\n" in data:
            data = data.replace(b"\r\n", b"\n")
        if not data.endswith(b"\n"):
            data += b"\n"
        first = self.lines + (not self._continued)  # number of the chunk's first line
        if self.text_field:
            text = self._whole(data, first, unfinished, self._json_text)
        elif self.field_counts:
            text = self._undamaged_fields(data, first, unfinished)
            text = self._whole(data, first, unfinished, self._fields_text) if text is None else text
        else:
            text = self._plain(data, first, unfinished)
        self.lines = first + data.count(b"\n") - 1
        self._continued = unfinished
        return text

    def _plain(self, data: bytes, first: int, unfinished: bool) -> str:
        self.kept = range(first, first + data.count(b"\n"))
        if b"\0" not in data:
            try:
                return data.decode()
            except UnicodeDecodeError:
                pass
        kept = {}
        lines = data.split(b"\n")[:-1]
        for number, line in enumerate(lines, first):
            in_pieces = (number == first and self._continued) or (number == first + len(lines) - 1 and unfinished)
            text = self._decode(line, number, in_pieces)
            if text is not None:
                kept[number] = text + "\n"
        self.kept = list(kept)
        return "".join(kept.values())

    def _decode(self, line: bytes, number: int, in_pieces: bool = False) -> str | None:
        """The text of a line; None when it is left out. A line that comes in pieces cannot be left out any more."""
        if b"\0" in line:
            self._note(number, "NUL bytes, dropped")
        try:
            return line.decode().replace("\0", "")
        except UnicodeDecodeError as error:
            if self.encoding_errors == "stop":
                raise DamagedLine(self.path, number, f"byte 0x{line[error.start]:02x} at column {error.start + 1} "
                                                     "is not UTF-8 (--encoding_errors stop)") from None
            if self.encoding_errors == "report" and not in_pieces:
                self._note(number, "not UTF-8, left out")
                self.left_out += 1
                return None
            self._note(number, "not UTF-8, replaced")
            return line.decode(errors="replace").replace("\0", "")

    def _whole(self, data: bytes, first: int, unfinished: bool, read: Callable[[bytes, int], str | None]) -> str:
        """Lines that cannot be read in pieces; `read` gives the text of one, or None where it is left out."""
        lines = data.split(b"\n")[:-1]
        if self._continued:  # the rest of a line that is too long
            lines, first = lines[1:], first + 1
        if unfinished and lines:
            self._leave_out(first + len(lines) - 1, f"longer than {LONG_WHOLE_LINE >> 20} MiB")
            lines = lines[:-1]
        texts = [(number, text) for number, line in enumerate(lines, first) if (text := read(line, number)) is not None]
        self.kept = [number for number, _ in texts]
        return "".join(text + "\n" for _, text in texts)

    def _json_text(self, line: bytes, number: int) -> str | None:
        if not line.strip():
            return ""
        decoded = self._decode(line, number)
        if decoded is None:
            return None
        try:
            record = json.loads(decoded)
        except (ValueError, RecursionError):
            return self._leave_out(number, "not JSON")
        if not isinstance(record, dict):
            return self._leave_out(number, "not a JSON object")
        if self.text_field not in record:
            return self._leave_out(number, f"no field '{self.text_field}'")
        text = record[self.text_field]
        if not isinstance(text, str):
            return self._leave_out(number, f"field '{self.text_field}' is not text")
        return text.encode(errors="replace").decode().replace("\n", " ")  # JSON can name half a surrogate pair

    def _undamaged_fields(self, data: bytes, first: int, unfinished: bool) -> str | None:
        """The text of a chunk in which no line is damaged, in one operation; None of other chunks."""
        if unfinished or self._continued or b"\0" in data:
            return None
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        _, counts = fields_of(data)
        wrong = np.flatnonzero(~np.isin(counts, self.field_counts)).tolist()
        if wrong:
            lines = text.split("\n")
            if any(lines[number].strip(BLANKS) for number in wrong):
                return None
        self.kept = range(first, first + len(counts))
        return text

    def _fields_text(self, line: bytes, number: int) -> str | None:
        count = line.count(b"\t") + 1
        if line.strip(BLANKS.encode()) and count not in self.field_counts:
            wanted = " or ".join(map(str, self.field_counts))
            return self._leave_out(number, f"{count} tab-separated fields instead of {wanted}")
        return self._decode(line, number)

    def _leave_out(self, number: int, kind: str) -> None:
        self._note(number, f"{kind}, left out")
        self.left_out += 1

    def _note(self, number: int, kind: str) -> None:
        """Count a kind of damage once a line, also when the line comes in pieces."""
        if self._noted.get(kind) == number:
            return
        self.damaged += number not in self._noted.values()
        self._noted[kind] = number
        self.damage[kind] += 1
        if len(self.locations) < KEPT_LOCATIONS:
            self.locations.append((number, kind))


def fields_of(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """For each line, the number of its first field among the fields of all lines, and how many it has.

    >>> [array.tolist() for array in fields_of(b"a\\tb\\nc\\n\\nd\\te\\tf\\n")]
    [[0, 2, 3, 4], [2, 1, 1, 3]]

    Args:
        data: text in UTF-8, each line ended by a line feed.

    Returns:
        (lines,) int64 both.
    """
    content = np.frombuffer(data, np.uint8)
    ends = content[(content == 9) | (content == 10)]  # the tab or line feed behind each field
    stops = np.flatnonzero(ends == 10) + 1
    counts = np.diff(stops, prepend=0)
    return stops - counts, counts


class DamagedLine(UserError):
    """A line that stops the run; its number counts from the beginning of the stretch that was read."""

    def __init__(self, path: str, line: int, reason: str):
        super().__init__(f"{path}: line {line}: {reason}")
        self.path, self.line, self.reason = path, line, reason

    def __reduce__(self):
        return DamagedLine, (self.path, self.line, self.reason)
