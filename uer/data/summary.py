"""What preprocessing tells its user: how far it is, and what came out."""

import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from uer.data.shards import COUNTS, Account
from uer.terminal import progress_bar
from uer.text import amount, in_bytes, in_time
from uer.tokenizers.base import Tokenizer

SECONDS_BETWEEN_LINES = 10
SHOWN_LOCATIONS = 10
KEPT_PIECES = 100_000


class Progress:
    """A bar on a terminal; elsewhere a line now and then, and none for short runs."""

    def __init__(self, total_bytes: int, stream: TextIO | None = None):
        self._total = total_bytes
        self._done = 0
        self._stream = stream = stream or sys.stderr
        self._start = self._next_line = time.monotonic()
        self._next_line += SECONDS_BETWEEN_LINES
        self._bar: Any = None
        if stream.isatty():
            from tqdm import tqdm  # a tenth of a short run's time, for nothing where there is no terminal

            tqdm.monitor_interval = 0  # no thread of its own: workers are forked after this
            self._bar = progress_bar(stream, total=total_bytes, unit="B", unit_scale=True, desc="tokenizing",
                                     mininterval=0.2)

    def add(self, size: int, worked: bool = True) -> None:
        """`size` more bytes of the corpus are done; `worked` is False for what an earlier run did."""
        self._done += size
        if self._bar is not None:
            if not worked:
                self._bar.initial += size
            self._bar.update(size)
        elif worked and time.monotonic() >= self._next_line:
            self._print_line()
        if not worked:
            self._total -= size
            self._done -= size

    def _print_line(self) -> None:
        now = time.monotonic()
        self._next_line = now + SECONDS_BETWEEN_LINES
        rate = self._done / (now - self._start)
        left = (self._total - self._done) / rate if rate else 0
        print(f"tokenizing: {100 * self._done / self._total:.0f}% of {in_bytes(self._total)}, {in_bytes(rate)}/s, "
              f"{in_time(left)} left", file=self._stream, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()


@dataclass
class Summary:
    """What a finished run has to say."""

    dataset_path: Path
    seq_length: int
    totals: Account = field(default_factory=Account)
    locations: list[tuple[str, int, str]] = field(default_factory=list)
    """The first damaged lines, as (file, line of the file counted from 1, kind of damage)."""
    unknown: Counter[str] = field(default_factory=Counter)
    corpus_bytes: int = 0
    dataset_bytes: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    """Bytes that the largest of the processes held at most."""

    def include(self, account: Account, paths: Sequence[str], earlier_lines: int) -> None:
        """Add a shard's account; shards come in the order of the corpus.

        Args:
            paths: the corpus' files.
            earlier_lines: lines of the shard's file that earlier shards held.
        """
        totals = self.totals
        for name in COUNTS:
            setattr(totals, name, getattr(totals, name) + getattr(account, name))
        for axis, count in account.axis_tokens.items():
            totals.axis_tokens[axis] = totals.axis_tokens.get(axis, 0) + count
        for kind, count in account.damage.items():
            totals.damage[kind] = totals.damage.get(kind, 0) + count
        free = max(SHOWN_LOCATIONS - len(self.locations), 0)
        self.locations += [(paths[file], earlier_lines + line, kind) for file, line, kind in account.locations[:free]]
        self.unknown.update(account.unknown)
        if len(self.unknown) > KEPT_PIECES:
            self.unknown = Counter(dict(self.unknown.most_common(KEPT_PIECES // 2)))

    def counts(self) -> dict[str, int]:
        """What the dataset's metadata keeps: only what does not depend on the run."""
        return {"corpus_bytes": self.corpus_bytes, **{name: getattr(self.totals, name) for name in COUNTS}}

    def lines(self, shown_unknown: int, tokenizers: Collection[Tokenizer]) -> list[str]:
        """The closing summary.

        Args:
            shown_unknown: how many of the commonest unknown characters are named.
            tokenizers: those that the corpus was tokenized with.
        """
        totals = self.totals
        report = [f"documents: {totals.documents:,} ({amount(totals.blank_lines, 'blank line')} skipped)",
                  *self._damage_lines(),
                  f"tokens: {totals.tokens:,}, unknown: {totals.unknown_tokens:,} "
                  f"({totals.unknown_tokens / max(totals.tokens, 1):.3%})"]
        commonest = unknown_characters(self.unknown, tokenizers)[:shown_unknown]
        if commonest:
            report.append("commonest unknown: " + "  ".join(f"{_visible(char)} {count:,}" for char, count in commonest))
        return [*report,
                f"instances of up to {self.seq_length:,} tokens: {totals.instances:,}, of them full: "
                f"{totals.full_instances:,} ({totals.full_instances / max(totals.instances, 1):.1%})",
                f"{self.dataset_path}: {in_bytes(self.dataset_bytes)}, "
                f"{self.dataset_bytes / max(totals.tokens, 1):.2f} bytes a token",
                f"time: {in_time(self.seconds)}, {in_bytes(self.corpus_bytes / self.seconds)}/s; "
                f"peak memory of a process: {in_bytes(self.peak_memory)}"]

    def _damage_lines(self) -> list[str]:
        report = [f"damaged lines: {count:,} ({kind})" for kind, count in sorted(self.totals.damage.items())]
        report += [f"  {path}: line {line}: {kind}" for path, line, kind in self.locations]
        more = sum(self.totals.damage.values()) - len(self.locations)
        return [*report, f"  and {more:,} more"] if more else report


def unknown_characters(pieces: Counter[str], tokenizers: Collection[Tokenizer]) -> list[tuple[str, int]]:
    """The characters without an entry of any tokenizer in the pieces that became [UNK], commonest first.

    A piece whose characters all have entries (a word that is too long, or cannot be put together) counts as a whole.
    """
    found: Counter[str] = Counter()
    for piece, count in pieces.items():
        missing = [char for char in piece if not any(tokenizer.covers(char) for tokenizer in tokenizers)]
        for part in missing or [piece if len(piece) <= 20 else piece[:20] + "…"]:
            found[part] += count
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def _visible(text: str) -> str:
    """`text`, with a code point's number in place of what a terminal would not show."""
    return "".join(char if char.isprintable() and not char.isspace() else f"U+{ord(char):04X}" for char in text)
