"""Build a vocabulary from a corpus: special tokens first, then the other entries by falling frequency.

    python3 scripts/build_vocab.py --corpus_path corpora/book.txt --output_path models/book_vocab.txt --tokenizer char

`char` counts characters, `space` counts the words between spaces, `bert` trains WordPiece on BERT's words with the
`tokenizers` library. Entries with equal counts are sorted by code point, so the same corpus always gives the same file.
"""

import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from _corpus_text import read_texts

from uer import cli
from uer.config import REQUIRED, flag
from uer.errors import UserError
from uer.files import atomic_path
from uer.paths import File, files_behind
from uer.tokenizers.vocab import read_special_tokens, special_entries

MOST_WORKERS = 1024
MAX_COUNTED_WORDS = 4_000_000  # with more different words than this, words with count 1 are dropped


@dataclass(frozen=True)
class BuildVocabConfig:
    """The corpus, and which entries the vocabulary keeps."""

    corpus_path: tuple[str, ...] = flag(REQUIRED, "Text files, globs or folders.", path="read")
    output_path: str = flag(REQUIRED, "Where the vocabulary is written.", path="write")
    tokenizer: str | None = flag(None, "What an entry is (default: char).", choices=("char", "space", "bert"))
    delimiter: str | None = flag(None, "UER-py's name for --tokenizer.", choices=("char", "space"))
    vocab_size: int = flag(0, "Largest number of entries, special tokens included; 0: no limit (bert: 21128).")
    min_count: int = flag(1, "Smallest count of an entry in the corpus.")
    do_lower_case: bool = flag(True, "Lower-case and strip accents (bert only).")
    workers_num: int = flag(1, "Processes that count; below 4 million different words the vocabulary does not depend "
                               "on it (bert: the library chooses its threads).")

    @property
    def kind(self) -> str:
        """The value of --tokenizer or --delimiter."""
        return self.tokenizer or self.delimiter or "char"

    def problems(self) -> list[str]:
        found = []
        if self.min_count < 1:
            found.append("--min_count must be at least 1")
        if not 1 <= self.workers_num <= MOST_WORKERS:
            found.append(f"--workers_num must lie between 1 and {MOST_WORKERS}")
        if self.delimiter and self.tokenizer not in (None, self.delimiter):
            found.append(f"--tokenizer {self.tokenizer} and --delimiter {self.delimiter} contradict one another")
        if self.vocab_size and self.vocab_size <= 5:
            found.append("--vocab_size must exceed the 5 special tokens")
        return found

    def reads(self) -> list[File]:
        """The corpus's files."""
        return [File("--corpus_path", path) for path in files_behind(self.corpus_path)]


def main() -> None:
    (config,) = cli.parse(__doc__, (BuildVocabConfig,))
    special = special_entries(read_special_tokens(Path(config.output_path).parent / "special_tokens_map.json"))
    if config.kind == "bert":
        entries = train_wordpiece(config, special)
    else:
        entries = special + commonest(count(config.kind, config.corpus_path, config.workers_num), special, config)
    if len(entries) == len(special):
        raise UserError(f"--corpus_path {' '.join(config.corpus_path)}: nothing in it occurs {config.min_count} times")
    with atomic_path(config.output_path) as path:
        path.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8", newline="\n")
    print(f"{config.output_path}: {len(entries):,} entries")


def count(kind: str, paths: tuple[str, ...], workers: int) -> Counter[str]:
    """Count each character ("char") or word ("space") of the corpus in `workers` processes.

    Each process reads the whole corpus and counts its part of it: reading is much faster than counting, and no text
    has to be sent from one process to another.
    """
    counter = count_chars if kind == "char" else count_words
    if workers == 1:
        return counter(paths)
    total: Counter[str] = Counter()
    with ProcessPoolExecutor(workers) as pool:
        for counts in pool.map(counter, [paths] * workers, range(workers), [workers] * workers):
            total.update(counts)
    return total


def count_chars(paths: tuple[str, ...], part: int = 0, parts: int = 1) -> Counter[str]:
    """Count each character; ASCII control characters, spaces and U+FFFD (damaged text) are left out.

    Args:
        paths: the corpus.
        part: number of the first piece of the corpus that is counted.
        parts: after it, every `parts`-th piece is counted.
    """
    counts = np.zeros(0x110000, np.int64)
    for text in islice(read_texts(paths), part, None, parts):
        points = np.frombuffer(text.encode("utf-32-le"), "<u4")
        found = np.bincount(points)
        counts[:len(found)] += found
    counts[:33] = counts[0xFFFD] = 0
    return Counter({chr(point): int(counts[point]) for point in np.flatnonzero(counts).tolist()})


def count_words(paths: tuple[str, ...], part: int = 0, parts: int = 1) -> Counter[str]:
    """Count each word between spaces; `part` and `parts` as in `count_chars`."""
    counts: Counter[str] = Counter()
    for text in islice(read_texts(paths), part, None, parts):
        counts.update(text.split())
        if len(counts) > MAX_COUNTED_WORDS:
            counts = Counter({word: count for word, count in counts.items() if count > 1})
    return counts


def commonest(counts: Counter[str], special: list[str], config: BuildVocabConfig) -> list[str]:
    """Entries by falling frequency, at most `vocab_size` together with the special tokens."""
    entries = sorted((entry for entry, count in counts.items() if count >= config.min_count and entry not in special),
                     key=lambda entry: (-counts[entry], entry))
    return entries[:config.vocab_size - len(special)] if config.vocab_size else entries


def train_wordpiece(config: BuildVocabConfig, special: list[str]) -> list[str]:
    """Entries of a WordPiece vocabulary."""
    try:
        from tokenizers import BertWordPieceTokenizer  # imported here: counting needs no other library
    except ImportError:
        raise UserError("--tokenizer bert needs the package tokenizers: pip install tokenizers") from None
    trainer = BertWordPieceTokenizer(lowercase=config.do_lower_case)
    lines = (line for text in read_texts(config.corpus_path) for line in text.split("\n"))
    size = config.vocab_size or 21128
    trainer.train_from_iterator(lines, vocab_size=size, min_frequency=config.min_count, limit_alphabet=size,
                                special_tokens=special, show_progress=sys.stderr.isatty())
    ids = trainer.get_vocab()
    return sorted(ids, key=ids.__getitem__)


if __name__ == "__main__":
    cli.run(main)
