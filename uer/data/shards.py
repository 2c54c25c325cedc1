"""One shard: a stretch of a file, or several small files, turned into files of columns in the work folder.

A shard stands alone: what it gives depends on its bytes and the recipe, not on other shards or on who works on it. Its
marker, written last, says that it is finished, and holds the account of what was read.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from uer.data.corpus import stretch
from uer.data.line_cleaner import BYTE_ORDER_MARK, KEPT_PLACES, LONG_JSON_LINE, LONG_LINE, LineCleaner, chunks
from uer.data.processors import Processor
from uer.data.store import token_dtype
from uer.data.word_starts import WordFinder
from uer.json_files import json_text, read_json_object
from uer.tokenizers.base import Tokenizer

KEPT_UNKNOWN = 1000  # the commonest unknown pieces of a shard that its account names


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a shard becomes."""

    tokenizer: Tokenizer
    processor: Processor
    seq_length: int
    full_sentences: bool = False
    text_field: str | None = None
    encoding_errors: str = "replace"
    whole_word_masking: bool = False
    user_dict: str | None = None

    def columns(self) -> dict[str, np.dtype]:
        """The columns of a shard's files, beside `starts`."""
        columns = {"tokens": token_dtype(len(self.tokenizer.vocab))}
        if self.whole_word_masking:
            columns["word_start"] = np.dtype(np.uint8)
        return columns


@dataclass(frozen=True)
class Shard:
    """The lines of a file that begin in [start, stop); or some whole files, `stop` bytes together."""

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
    def name(self) -> str:
        """How its files in the work folder begin; names sort as the corpus does."""
        return f"{self.file:06d}-{self.index:06d}"

    def __str__(self) -> str:
        if self.followers:
            return f"{self.source} to {self.followers[-1][0]}, {1 + len(self.followers)} files"
        return f"{self.source}, {'decompressed ' if self.path else ''}bytes {self.start} to {self.stop}"

    def parts(self) -> Iterator[tuple[int, str, Iterator[bytes]]]:
        """The files of the shard: (number in the corpus, path, the bytes of its lines)."""
        rest = sum(size for _, size in self.followers)
        first = (self.path, 0, os.path.getsize(self.path)) if self.path else (self.source, self.start, self.stop - rest)
        yield self.file, self.source, stretch(*first)
        for number, (path, size) in enumerate(self.followers, self.file + 1):
            yield number, path, stretch(path, 0, size)


# The account's plain counts: they add up over shards, and a dataset's metadata keeps them.
COUNTS = ("lines", "documents", "blank_lines", "left_out_lines", "damaged_lines", "tokens", "unknown_tokens",
          "instances", "full_instances")


@dataclass
class Account:
    """What a shard, or a corpus, held."""

    lines: int = 0
    documents: int = 0
    blank_lines: int = 0
    left_out_lines: int = 0
    damaged_lines: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    instances: int = 0
    full_instances: int = 0
    damage: dict[str, int] = field(default_factory=dict)
    """Kind of damage -> how many lines have it."""
    places: list[list[Any]] = field(default_factory=list)
    """The first damaged lines, as [number of the file, line counted from 1, kind]."""
    unknown: dict[str, int] = field(default_factory=dict)
    """The commonest pieces of text that became [UNK]."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of the shard's files."""
    start: int = 0
    stop: int = 0

    def include_lines(self, file: int, cleaner: LineCleaner) -> None:
        """Add what was met in a file, or the shard's part of it."""
        self.lines += cleaner.lines
        self.left_out_lines += cleaner.left_out
        self.damaged_lines += cleaner.damaged
        for kind, count in cleaner.damage.items():
            self.damage[kind] = self.damage.get(kind, 0) + count
        free = max(KEPT_PLACES - len(self.places), 0)
        self.places += [[file, line, kind] for line, kind in cleaner.places[:free]]


def build_shard(shard: Shard, recipe: Recipe, folder: Path, words: WordFinder | None) -> Account:
    """Work on one shard: write its column files, then its marker.

    Args:
        shard: which one.
        recipe: what it becomes.
        folder: the work folder.
        words: finds word starts, when the recipe wants them.
    """
    account = Account(start=shard.start, stop=shard.stop)
    with _ColumnFiles(folder, shard.name, [*recipe.columns(), "starts"]) as files:
        work = _Work(recipe, words, files)
        for number, path, blocks in shard.parts():
            cleaner = LineCleaner(path, recipe.encoding_errors, recipe.text_field)
            for data, unfinished in _chunks(blocks, recipe, opens_file=shard.start == 0 or number > shard.file):
                work.add(cleaner.clean(data, unfinished), unfinished and not recipe.text_field)
            account.include_lines(number, cleaner)
        work.finish(account)
    write_marker(folder / f"{shard.name}.json", asdict(account))
    if shard.path:
        os.unlink(shard.path)
    return account


def _chunks(blocks: Iterator[bytes], recipe: Recipe, opens_file: bool) -> Iterator[tuple[bytes, bool]]:
    """Whole lines, without the byte order mark that may open a file."""
    long_line = LONG_JSON_LINE if recipe.text_field else LONG_LINE
    for data, unfinished in chunks(blocks, recipe.tokenizer.line_cuts, long_line):
        if opens_file:
            opens_file = False
            data = data.removeprefix(BYTE_ORDER_MARK)
            if not data:
                continue
        yield data, unfinished


class _Work:
    """Text to tokens to instances to files, and what there is to count on the way."""

    def __init__(self, recipe: Recipe, words: WordFinder | None, files: "_ColumnFiles"):
        self._tokenizer = recipe.tokenizer
        self._words = words
        self._files = files
        special_ids = recipe.tokenizer.vocab.special_ids
        self._builder = recipe.processor.instance_builder(recipe.seq_length, special_ids, recipe.full_sentences)
        self._lengths = _LengthCount(recipe.seq_length)
        self._unknown: Counter[str] = Counter()
        self._unknown_id = special_ids["unk"]
        self._tokens = self._unknown_tokens = 0

    def add(self, text: str, unfinished: bool) -> None:
        """Lines, each ended by a line feed; `unfinished` when the last one goes on in the next text."""
        if not text:
            return
        ids, offsets = self._tokenizer.encode_lines(text, self._unknown)
        word_start = self._words.word_starts(text, ids, offsets) if self._words else None
        made = self._builder.add(ids, offsets, word_start, unfinished)
        self._unknown_tokens += int(np.count_nonzero(ids == self._unknown_id))
        self._tokens += len(made.tokens)
        self._lengths.add(made.starts)
        self._files.write({"tokens": made.tokens, **made.columns, "starts": made.starts})

    def finish(self, account: Account) -> None:
        """Enter the counts into the account."""
        account.tokens, account.unknown_tokens = self._tokens, self._unknown_tokens
        account.documents, account.blank_lines = self._builder.documents, self._builder.blank_lines
        account.instances, account.full_instances = self._lengths.finish(self._tokens)
        commonest = sorted(self._unknown.items(), key=lambda item: (-item[1], item[0]))
        account.unknown = dict(commonest[:KEPT_UNKNOWN])
        account.sizes = self._files.sizes


def write_marker(path: Path, content: dict[str, Any]) -> None:
    """A small JSON file that is there whole or not at all."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json_text(content), encoding="utf-8")
    os.replace(temporary, path)


def read_account(folder: Path, shard: Shard) -> Account | None:
    """What an earlier run finished; None when it has to be done (again)."""
    try:
        content = read_json_object(folder / f"{shard.name}.json")
        account = Account(**content)
        whole = all((folder / f"{shard.name}.{name}").stat().st_size == size for name, size in account.sizes.items())
    except (OSError, ValueError, TypeError):
        return None
    return account if whole and (account.start, account.stop) == (shard.start, shard.stop) else None


class _ColumnFiles:
    """The files a shard's columns are appended to."""

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
