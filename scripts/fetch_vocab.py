"""Fetch a known vocabulary and check it by its SHA-256, or install it from a local file.

    python3 scripts/fetch_vocab.py
    python3 scripts/fetch_vocab.py --from_file vocab.txt --output_path models/google_zh_vocab.txt

`--vocab_path` of the other commands does the same by itself when the file is missing.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.config import flag
from uer.errors import UserError
from uer.tokenizers.fetch import KNOWN, fetch, install_file, is_known


@dataclass(frozen=True)
class FetchConfig:
    """Which vocabulary, and where it goes."""

    vocab: str = flag("google_zh_vocab.txt", "Which known vocabulary.", choices=tuple(KNOWN))
    output_path: str = flag("models/google_zh_vocab.txt", "Where the vocabulary is written.", path="write")
    from_file: str | None = flag(None, "A copy of the vocabulary to install instead of fetching it.", path="read")


def main() -> None:
    (config,) = cli.parse(__doc__, (FetchConfig,))
    path = Path(config.output_path)
    if path.exists():
        if not path.is_file() or not is_known(path.read_bytes(), config.vocab):
            raise UserError(f"--output_path {path}: stands already and is not the published {config.vocab}; "
                            "move it away first")
        print(f"{path}: already there (SHA-256 verified)")
    elif config.from_file:
        install_file(Path(config.from_file), path, config.vocab)
        print(f"{path}: installed from {config.from_file} (SHA-256 verified)")
    else:
        fetch(path, config.vocab)


if __name__ == "__main__":
    cli.run(main)
