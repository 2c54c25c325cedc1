"""Compare two vocabularies: how many entries each has, and how many of them the other one lacks."""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.config import REQUIRED, flag
from uer.tokenizers.fetch import ensure_vocab
from uer.tokenizers.vocab import read_any_entries


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    vocab_1: str = flag(REQUIRED, "A vocabulary.", path="read")
    vocab_2: str = flag(REQUIRED, "The other one.", path="read")


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    first, second = (set(read_any_entries(ensure_vocab(path))) - {""} for path in (flags.vocab_1, flags.vocab_2))
    print(f"vocab_1: {flags.vocab_1}, size: {len(first)}")
    print(f"vocab_2: {flags.vocab_2}, size: {len(second)}")
    print(f"vocab_1 - vocab_2 = {len(first - second)}")
    print(f"vocab_2 - vocab_1 = {len(second - first)}")


if __name__ == "__main__":
    cli.run(main)
