"""Divide a corpus into documents for training and documents that are held out.

    python3 scripts/split_corpus.py --corpus_path corpus.txt --train_path train.txt --heldout_path heldout.txt

The corpus may be compressed (.gz, .xz, .bz2, .zst); the parts are plain text. A document is a line, or with --documents
paragraphs the lines up to a blank one (the corpora of bert, albert, bart and gsg). Whether it is held out depends on
its text and --seed alone: copies of one document are on the same side, and a corpus that grows later keeps its
division. The order of the documents stays.
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.config import LARGEST_SEED, REQUIRED, flag
from uer.data.corpus import SUFFIXES, CorpusFile, find_files, read_blocks
from uer.data.line_cleaner import BYTE_ORDER_MARK
from uer.data.schema import BLANK_LINE
from uer.errors import UserError
from uer.files import atomic_path
from uer.paths import File, files_behind
from uer.text import amount


@dataclass(frozen=True)
class SplitConfig:
    """The corpus, and its two parts."""

    corpus_path: tuple[str, ...] = flag(REQUIRED, "Text files, globs or folders.", path="read")
    train_path: str = flag(REQUIRED, "Where the documents for training are written.", path="write")
    heldout_path: str = flag(REQUIRED, "Where the others are written.", path="write")
    fraction: float = flag(0.01, "Fraction of the documents that is held out.")
    documents: str = flag("lines", "What a document is.", choices=("lines", "paragraphs"))
    seed: int = flag(7, "Another number holds out other documents.")

    def problems(self) -> list[str]:
        found = [] if 0.0 < self.fraction < 1.0 else ["--fraction must lie between 0 and 1"]
        if not 0 <= self.seed <= LARGEST_SEED:
            found.append("--seed must lie between 0 and 2^63 - 1")
        return found + [f"--{name} {getattr(self, name)}: plain text is written, not {SUFFIXES[suffix]} data"
                        for name in ("train_path", "heldout_path")
                        if (suffix := Path(getattr(self, name)).suffix.lower()) in SUFFIXES]

    def reads(self) -> list[File]:
        """The corpus's files."""
        return [File("--corpus_path", path) for path in files_behind(self.corpus_path)]


def main() -> None:
    """Read the corpus once, and write both parts."""
    config, = cli.parse(__doc__, (SplitConfig,))
    files = find_files(config.corpus_path)
    counts, sizes = [0, 0], [0, 0]
    with atomic_path(config.train_path) as train, atomic_path(config.heldout_path) as heldout:
        with open(train, "wb") as first, open(heldout, "wb") as second:
            outputs = (first, second)
            for file in files:
                for document in documents(file, config.documents == "paragraphs"):
                    side = int(is_held_out(document, config.fraction, config.seed))
                    outputs[side].write(document)
                    counts[side] += 1
                    sizes[side] += len(document)
        if not all(counts):
            raise UserError(f"--fraction {config.fraction}: one part of the {sum(counts):,} documents would be empty")
    for path, count, size in zip((config.train_path, config.heldout_path), counts, sizes):
        print(f"{path}: {amount(count, 'document')}, {size / 1e6:.2f} MB")


def documents(file: CorpusFile, paragraphs: bool) -> Iterator[bytes]:
    """The documents of a file with their line ends; blank lines between lines are left out."""
    parts: list[bytes] = []
    is_blank = re.compile(BLANK_LINE).fullmatch
    for line in lines(file):
        blank = is_blank(line)
        if not blank:
            parts.append(line)
        if parts and (blank or not paragraphs):
            yield b"".join([*parts, b"\n"] if paragraphs else parts)
            parts = []
    if parts:
        yield b"".join([*parts, b"\n"])


def lines(file: CorpusFile) -> Iterator[bytes]:
    """The lines of a file, decompressed, without a byte order mark; each with its line end, the last one too."""
    begun: list[bytes] = []
    for number, (block, _) in enumerate(read_blocks(file)):
        end, *others = (block if number else block.removeprefix(BYTE_ORDER_MARK)).split(b"\n")
        begun.append(end)
        if others:
            yield b"".join(begun) + b"\n"
            yield from (line + b"\n" for line in others[:-1])
            begun = others[-1:]
    if last := b"".join(begun):
        yield last + b"\n"


def is_held_out(document: bytes, fraction: float, seed: int) -> bool:
    """Whether the hash of the text, which is uniform, is below the fraction."""
    digest = hashlib.blake2b(document.strip(), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") < fraction * 2.0**64


if __name__ == "__main__":
    cli.run(main)
