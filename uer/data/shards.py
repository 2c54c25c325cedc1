"""Turns one shard (a part of a file, or several small files) into column files in the work folder.

The result depends on the corpus and the settings, not on other shards' results or on the process. The marker, a JSON
file that is written last, says that the shard is finished and contains its counts (the account).
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from uer.data.corpus import LINE_END, stretch
from uer.data.draws import Draws
from uer.data.line_cleaner import (
    BYTE_ORDER_MARK,
    KEPT_LOCATIONS,
    LONG_LINE,
    LONG_WHOLE_LINE,
    LineCleaner,
    chunks,
    fields_of,
)
from uer.data.processors import Processor
from uer.data.processors.base import Block, Lines, Ragged
from uer.data.schema import axes_of
from uer.data.word_starts import WordFinder
from uer.json_files import json_text, read_json_object
from uer.tokenizers.base import Tokenizer

LINES_OF_A_FILE = 1 << 40  # more than a file has: line n of file f is called f * LINES_OF_A_FILE + n
KEPT_UNKNOWN = 1000  # how many of the most frequent unknown pieces of a shard its account contains


@dataclass(frozen=True)
class BuildSettings:
    """Everything besides its bytes that the result of a shard depends on."""

    tokenizers: Mapping[str, Tokenizer]
    """By the vocabularies' names: "src", and "tgt" where the processor has one."""
    processor: Processor
    seed: int = 7
    copies: int = 1
    """How often each document is worked on."""
    text_field: str | None = None
    encoding_errors: str = "replace"
    user_dict: str | None = None

    def column_types(self) -> dict[str, np.dtype]:
        """The schema's columns in numpy's types."""
        return {name: column.numpy_type(self.processor.vocabs) for name, column in self.processor.schema().items()}

    def axes(self) -> tuple[str, ...]:
        """The sequences of an instance."""
        return axes_of(self.processor.schema())

    @property
    def field_counts(self) -> tuple[int, ...]:
        """How many fields a line may have; () where lines are not divided."""
        return self.processor.field_counts if self.processor.corpus.fields else ()


@dataclass(frozen=True)
class Shard:
    """The documents of a file that begin in [start, stop); or some whole files, `stop` bytes together."""

    file: int
    """Number of the file in the corpus; of the first one, where there are several."""
    index: int
    """Number of the shard in the file."""
    source: str
    """The file as the user knows it."""
    start: int
    stop: int
    path: str = ""
    """Where the bytes stand when that is not `source`: the decompressed block, removed when the shard is finished."""
    followers: tuple[tuple[str, int], ...] = ()
    """Further whole files, (path, size) each, which follow the first in the corpus too."""

    @property
    def next_path(self) -> Path:
        """Where a block's plan writes the beginning of the text behind it, for processors that draw from it."""
        return Path(self.path).with_suffix(".next")

    @property
    def name(self) -> str:
        """How its files in the work folder begin; names sort as the corpus does."""
        return f"{self.file:06d}-{self.index:06d}"

    def __str__(self) -> str:
        if self.followers:
            return f"{self.source} to {self.followers[-1][0]}, {1 + len(self.followers)} files"
        return f"{self.source}, {'decompressed ' if self.path else ''}bytes {self.start} to {self.stop}"

    def remove_block(self) -> None:
        """Remove the decompressed block."""
        Path(self.path).unlink(missing_ok=True)
        self.next_path.unlink(missing_ok=True)

    def parts(self, document_end: re.Pattern[bytes] = LINE_END) -> Iterator[tuple[int, str, Iterator[bytes]]]:
        """The files of the shard: (number in the corpus, path, the bytes of its documents)."""
        rest = sum(size for _, size in self.followers)
        first = (self.path, 0, os.path.getsize(self.path)) if self.path else (self.source, self.start, self.stop - rest)
        yield self.file, self.source, stretch(*first, document_end)
        for number, (path, size) in enumerate(self.followers, self.file + 1):
            yield number, path, stretch(path, 0, size)


# The account's plain counts: they add up over shards, and a dataset's metadata keeps them.
COUNTS = ("lines", "documents", "blank_lines", "left_out_lines", "damaged_lines", "tokens", "unknown_tokens",
          "instances", "full_instances")


@dataclass
class Account:
    """The counts of a shard, or of a whole corpus."""

    lines: int = 0
    documents: int = 0
    blank_lines: int = 0
    left_out_lines: int = 0
    damaged_lines: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    instances: int = 0
    full_instances: int = 0
    axis_tokens: dict[str, int] = field(default_factory=dict)
    """Tokens of each sequence ("src", "tgt")."""
    damage: dict[str, int] = field(default_factory=dict)
    """Kind of damage -> how many lines have it."""
    locations: list[list[Any]] = field(default_factory=list)
    """The first damaged lines, as [number of the file, line counted from 1, kind]."""
    unknown: dict[str, int] = field(default_factory=dict)
    """The commonest pieces of text that became [UNK]."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of the shard's files."""
    start: int = 0
    stop: int = 0

    def include_lines(self, file: int, cleaner: LineCleaner) -> None:
        """Add the counts of a file, or of the shard's part of it."""
        self.lines += cleaner.lines
        self.left_out_lines += cleaner.left_out
        self.damaged_lines += cleaner.damaged
        for kind, count in cleaner.damage.items():
            self.damage[kind] = self.damage.get(kind, 0) + count
        free = max(KEPT_LOCATIONS - len(self.locations), 0)
        first = sorted(cleaner.locations, key=lambda location: location[0])[:free]
        self.locations += [[file, line, kind] for line, kind in first]

    def include_left_out(self, left_out: "LeftOut") -> None:
        """Add the lines that the processor left out."""
        self.left_out_lines += left_out.reasons.total()
        self.damaged_lines += left_out.reasons.total()
        for reason, count in left_out.reasons.items():
            self.damage[f"{reason}, left out"] = self.damage.get(f"{reason}, left out", 0) + count
        found = [[*divmod(number, LINES_OF_A_FILE), f"{reason}, left out"] for number, reason in left_out.first]
        self.locations = sorted(self.locations + found, key=lambda location: location[:2])[:KEPT_LOCATIONS]


@dataclass
class LeftOut:
    """The lines of which a processor makes nothing.

    Attributes:
        reasons: how often each applies.
        first: the first of them, as (number, reason).
    """

    reasons: Counter[str] = field(default_factory=Counter)
    first: list[tuple[int, str]] = field(default_factory=list)
    _last: int = -1

    def add(self, lines: tuple[tuple[int, str], ...]) -> None:
        """Count some lines, ascending. One that comes in pieces counts once."""
        for number, reason in lines:
            if number != self._last:
                self.reasons[reason] += 1
                if len(self.first) < KEPT_LOCATIONS:
                    self.first.append((number, reason))
            self._last = number


def build_shard(shard: Shard, settings: BuildSettings, folder: Path, words: WordFinder | None,
                outside: Callable[[], bytes] = bytes) -> Account:
    """Process one shard: write its column files, then its marker.

    Args:
        shard: the shard.
        settings: tokenizers, processor and so on.
        folder: the work folder.
        words: finds word starts; None if the processor does not need them.
        outside: gives text of documents that are not in the shard (see `uer.data.shard_plan.text_outside`).

    Returns:
        the counts.
    """
    account = Account(start=shard.start, stop=shard.stop)
    names = [*settings.column_types(), *(f"{axis}.starts" for axis in settings.axes())]
    with _ColumnFiles(folder, shard.name, names) as files:
        work = _Work(settings, words, files, Draws(settings.seed, shard.file, shard.start), outside)
        for number, path, blocks in shard.parts(settings.processor.corpus.document_end):
            cleaner = LineCleaner(path, settings.encoding_errors, settings.text_field, settings.field_counts)
            for data, unfinished in _chunks(blocks, settings, opens_file=shard.start == 0 or number > shard.file):
                text = cleaner.clean(data, unfinished)
                work.add(text, _numbers(number, cleaner.kept), unfinished and not _reads_whole_lines(settings))
            work.end_file()
            account.include_lines(number, cleaner)
        work.finish(account)
    write_marker(folder / f"{shard.name}.json", asdict(account))
    if shard.path:
        shard.remove_block()
    return account


def _numbers(file: int, lines: Sequence[int]) -> np.ndarray:
    """What some lines of a file are called, (lines,) int64; see `LINES_OF_A_FILE`."""
    first = np.arange(lines.start, lines.stop) if isinstance(lines, range) else np.array(lines, np.int64)
    return first + file * LINES_OF_A_FILE


def _reads_whole_lines(settings: BuildSettings) -> bool:
    return bool(settings.text_field or settings.field_counts)


def _chunks(blocks: Iterator[bytes], settings: BuildSettings, opens_file: bool) -> Iterator[tuple[bytes, bool]]:
    """Whole lines, without the byte order mark that may open a file."""
    long_line = LONG_WHOLE_LINE if _reads_whole_lines(settings) else LONG_LINE
    for data, unfinished in chunks(blocks, settings.tokenizers["src"].line_cuts, long_line):
        if opens_file:
            opens_file = False
            data = data.removeprefix(BYTE_ORDER_MARK)
            if not data:
                continue
        yield data, unfinished


class _Work:
    """Tokenizes text, makes instances of the tokens, writes them to the column files, and counts."""

    def __init__(self, settings: BuildSettings, words: WordFinder | None, files: "_ColumnFiles", draws: Draws,
                 outside: Callable[[], bytes]):
        self._settings = settings
        self._tokenizers = settings.tokenizers
        self._words = words
        self._files = files
        self._builder = settings.processor.builder(draws, settings.copies)
        self._builder.outside = lambda: self._lines_of(outside())
        self._types = settings.column_types()
        self._axes = settings.axes()
        self._lengths = _LengthCount(settings.processor.lengths()["src"])
        self._unknown: Counter[str] = Counter()
        self._unknown_tokens = 0
        self._axis_tokens = dict.fromkeys(self._axes, 0)
        self._unknown_ids = {axis: self._tokenizers.get(axis, self._tokenizers["src"]).vocab.special_ids.get("unk", -1)
                             for axis in self._axes}
        self._left_out = LeftOut()

    def add(self, text: str, numbers: np.ndarray, unfinished: bool) -> None:
        """Process lines that end with a line feed each; `unfinished` if the last one continues in the next text.

        Args:
            numbers: (lines,) int64, what they are called.
        """
        if text:
            fields = tokenized(text, self._settings, partial(self._encoded, unknown=self._unknown), unfinished)
            self._write(self._builder.add(Lines(fields, unfinished, numbers)))

    def end_file(self) -> None:
        """Process the end of a file."""
        self._write(self._builder.end_file())

    def finish(self, account: Account) -> None:
        """Write what is left, and store the counts in the account."""
        self._write(self._builder.finish())
        account.axis_tokens, account.unknown_tokens = self._axis_tokens, self._unknown_tokens
        account.tokens = sum(self._axis_tokens.values())
        account.documents, account.blank_lines = self._builder.documents, self._builder.blank_lines
        account.instances, account.full_instances = self._lengths.finish(self._axis_tokens["src"])
        commonest = sorted(self._unknown.items(), key=lambda item: (-item[1], item[0]))
        account.unknown = dict(commonest[:KEPT_UNKNOWN])
        account.sizes = self._files.sizes
        account.include_left_out(self._left_out)

    def _lines_of(self, data: bytes) -> Ragged:
        text = LineCleaner("").clean(data.removeprefix(BYTE_ORDER_MARK), False)
        return tokenized(text, self._settings, self._encoded)[0]

    def _encoded(self, text: str, vocab: str, unknown: Counter[str] | None = None) -> Ragged:
        ids, offsets = self._tokenizers[vocab].encode_lines(text, unknown)
        words = self._words if vocab == "src" else None
        return Ragged(ids, offsets, words.word_starts(text, ids, offsets) if words else None)

    def _write(self, block: Block) -> None:
        self._left_out.add(block.left_out)
        if not block.columns:
            return
        for axis in self._axes:
            self._axis_tokens[axis] += len(block.columns[axis])
            self._unknown_tokens += int(np.count_nonzero(block.columns[axis] == self._unknown_ids[axis]))
        self._lengths.add(block.starts["src"])
        assert all(block.columns[name].dtype == dtype for name, dtype in self._types.items())
        self._files.write({**block.columns, **{f"{axis}.starts": block.starts[axis] for axis in self._axes}})


def tokenized(text: str, settings: BuildSettings,
              encode: Callable[[str, str], Ragged], unfinished: bool = False) -> tuple[Ragged | list[str], ...]:
    """The fields of some lines: of "1 TAB good" and "0 TAB bad" the texts ["1", "0"] and the tokens of good and bad.

    Args:
        text: lines, each ended by a line feed.
        settings: whose processor says what the fields are.
        encode: lines and the name of a vocabulary -> tokens.
        unfinished: whether the last line goes on in the next text, so that nothing ends it yet.
    """
    fields = settings.processor.fields
    if not settings.field_counts:
        return (_with_line_ends(encode(text, fields[0]), settings.tokenizers[fields[0]].line_end, unfinished),)
    return tuple(encode("\n".join(column) + "\n", vocab) if vocab else column
                 for column, vocab in zip(_columns(text, len(fields)), fields))


def _columns(text: str, count: int) -> Iterator[list[str]]:
    """The first `count` fields of all lines: of "1 TAB a" and "2" the lists ["1", "2"] and ["a", ""]."""
    firsts, counts = fields_of(text.encode())
    every = text.replace("\t", "\n").split("\n")  # the last one is empty: it stands for fields that are absent
    for number in range(count):
        at = np.where(number < counts, firsts + number, -1)  # (lines,)
        yield [every[index] for index in at.tolist()]


def _with_line_ends(lines: Ragged, line_end: int | None, unfinished: bool) -> Ragged:
    """The tokens with that of the line's end behind each line that has any: [7 8 | | 9], 1 -> [7 8 1 | | 9 1]."""
    if line_end is None:
        return lines
    ended = np.diff(lines.offsets) > 0  # (lines,)
    if unfinished:
        ended[-1:] = False
    ids = np.insert(lines.ids, lines.offsets[1:][ended], line_end)
    return Ragged(ids, lines.offsets + np.concatenate([[0], np.cumsum(ended)]))


def write_marker(path: Path, content: dict[str, Any]) -> None:
    """Write a small JSON file atomically."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json_text(content), encoding="utf-8")
    os.replace(temporary, path)


def read_account(folder: Path, shard: Shard) -> Account | None:
    """The account of a shard that an earlier run has finished; None if the shard is not finished."""
    try:
        content = read_json_object(folder / f"{shard.name}.json")
        account = Account(**content)
        whole = all((folder / f"{shard.name}.{name}").stat().st_size == size for name, size in account.sizes.items())
    except (OSError, ValueError, TypeError):
        return None
    return account if whole and (account.start, account.stop) == (shard.start, shard.stop) else None


class _ColumnFiles:
    """The column files of a shard; arrays are appended to them."""

    def __init__(self, folder: Path, name: str, columns: list[str]):
        self._paths = {column: folder / f"{name}.{column}" for column in columns}
        self.sizes = dict.fromkeys(columns, 0)

    def __enter__(self) -> "_ColumnFiles":
        self._files = {column: open(path, "wb") for column, path in self._paths.items()}  # noqa: SIM115
        return self

    def __exit__(self, *error: Any) -> None:
        for file in self._files.values():
            file.close()

    def write(self, arrays: dict[str, np.ndarray]) -> None:
        for column, array in arrays.items():
            self._files[column].write(array.data)
            self.sizes[column] += array.nbytes


class _LengthCount:
    """Counts instances, and the full ones among them, from where they start."""

    def __init__(self, seq_length: int):
        self._seq_length = seq_length
        self._last: int | None = None
        self._instances = 0
        self._full = 0

    def add(self, starts: np.ndarray) -> None:
        if len(starts):
            known = starts if self._last is None else np.concatenate([[self._last], starts])
            self._full += int(np.count_nonzero(np.diff(known) == self._seq_length))
            self._instances += len(starts)
            self._last = int(starts[-1])

    def finish(self, tokens: int) -> tuple[int, int]:
        """-> (instances, full ones); with no starts at all (joined documents) both are 0."""
        full = self._last is not None and tokens - self._last == self._seq_length
        return self._instances, self._full + full
