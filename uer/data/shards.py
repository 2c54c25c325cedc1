"""One shard: a stretch of the corpus, turned into files of columns in the work folder.

A shard stands alone: what it gives depends on its bytes and the recipe, not on other shards or on who works on it. Its
marker, written last, says that it is finished, and holds the account of what was read.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from uer.data.corpus import stretch
from uer.data.lines import BYTE_ORDER_MARK, CUTS, LONG_JSON_LINE, LONG_LINE, LineCleaner, chunks
from uer.data.store import token_dtype
from uer.data.word_starts import WordFinder
from uer.tokenizers.base import Tokenizer

KEPT_UNKNOWN = 1000  # the commonest unknown pieces of a shard that its account names


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a shard becomes."""

    tokenizer: Tokenizer
    processor: Any
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
    """A stretch of a file: the lines that begin in [start, stop)."""

    file: int
    """Number of the file in the corpus."""
    index: int
    """Number of the shard in the file."""
    source: str
    """The file as the user knows it."""
    start: int
    stop: int
    path: str = ""
    """Where the bytes stand when that is not `source`: the decompressed block, removed when the shard is finished."""

    @property
    def name(self) -> str:
        return f"{self.file:06d}-{self.index:06d}"

    def __str__(self) -> str:
        return f"{self.source}, {'decompressed ' if self.path else ''}bytes {self.start} to {self.stop}"


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
    """The first damaged lines, as [line counted from 1, kind]."""
    unknown: dict[str, int] = field(default_factory=dict)
    """The commonest pieces of text that became [UNK]."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of the shard's files."""
    start: int = 0
    stop: int = 0


def build_shard(shard: Shard, recipe: Recipe, folder: Path, words: WordFinder | None,
                still_wanted: Callable[[], None] = lambda: None) -> Account:
    """Work on one shard: write its column files, then its marker.

    Args:
        shard: which one.
        recipe: what it becomes.
        folder: the work folder.
        words: finds word starts, when the recipe wants them.
        still_wanted: called between blocks; raises to give up.
    """
    cleaner = LineCleaner(shard.source, recipe.encoding_errors, recipe.text_field)
    special_ids = recipe.tokenizer.vocab.special_ids
    builder = recipe.processor.instance_builder(recipe.seq_length, special_ids, recipe.full_sentences)
    account = Account(start=shard.start, stop=shard.stop)
    unknown: Counter[str] = Counter()
    lengths = _LengthCount(recipe.seq_length)
    with _ColumnFiles(folder, shard.name, [*recipe.columns(), "starts"]) as files:
        for data, unfinished in _shard_chunks(shard, recipe):
            still_wanted()
            text = cleaner.clean(data, unfinished)
            if not text:
                continue
            ids, offsets = recipe.tokenizer.encode_lines(text, unknown)
            word_start = words.word_starts(text, ids, offsets) if words else None
            made = builder.add(ids, offsets, word_start, unfinished and not recipe.text_field)
            account.unknown_tokens += int(np.count_nonzero(ids == special_ids["unk"]))
            account.tokens += len(made.tokens)
            lengths.add(made.starts)
            files.write({"tokens": made.tokens, **made.columns, "starts": made.starts})
        account.sizes = files.sizes
    account.lines, account.left_out_lines, account.damaged_lines = cleaner.lines, cleaner.left_out, cleaner.damaged
    account.damage, account.places = dict(cleaner.damage), [list(place) for place in cleaner.places]
    account.documents, account.blank_lines = builder.documents, builder.blank_lines
    account.instances, account.full_instances = lengths.finish(account.tokens)
    account.unknown = dict(sorted(unknown.items(), key=lambda item: (-item[1], item[0]))[:KEPT_UNKNOWN])
    write_marker(folder / f"{shard.name}.json", asdict(account))
    if shard.path:
        os.unlink(shard.path)
    return account


def _shard_chunks(shard: Shard, recipe: Recipe) -> Iterator[tuple[bytes, bool]]:
    """The shard's lines, without the byte order mark that may open the file."""
    if shard.path:
        blocks = stretch(shard.path, 0, os.path.getsize(shard.path))
    else:
        blocks = stretch(shard.source, shard.start, shard.stop)
    first = shard.start == 0
    long_line = LONG_JSON_LINE if recipe.text_field else LONG_LINE
    for data, unfinished in chunks(blocks, CUTS[recipe.tokenizer.kind], long_line):
        if first:
            data = data.removeprefix(BYTE_ORDER_MARK)
        first = False
        if data:
            yield data, unfinished


def write_marker(path: Path, content: dict[str, Any]) -> None:
    """A small JSON file that is there whole or not at all."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, path)


def read_account(folder: Path, shard: Shard) -> Account | None:
    """What an earlier run finished; None when it has to be done (again)."""
    try:
        content = json.loads((folder / f"{shard.name}.json").read_text(encoding="utf-8"))
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
