"""Download a known vocabulary and check its SHA-256, or install it from a local file.

    python3 scripts/fetch_vocab.py
    python3 scripts/fetch_vocab.py --vocab google_zh_with_sentinel_vocab.txt
    python3 scripts/fetch_vocab.py --vocab huggingface_gpt2_merges.txt
    python3 scripts/fetch_vocab.py --from_file vocab.txt --output_path models/google_zh_vocab.txt

The other commands do the same when the file of their `--vocab_path` or `--merges_path` is missing. Of files that no
package has, such as SentencePiece models, the command says where they are found.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.config import flag
from uer.errors import UserError
from uer.tokenizers.fetch import ELSEWHERE, KNOWN, fetch, install_file


@dataclass(frozen=True)
class FetchConfig:
    """The vocabulary, and the file for it."""

    vocab: str = flag("google_zh_vocab.txt", "Name of the vocabulary.", choices=(*KNOWN, *ELSEWHERE))
    output_path: str | None = flag(None, "Where the vocabulary is written. Default: models/<name of the vocabulary>.",
                                   path="write")
    from_file: str | None = flag(None, "A local copy to check and install; nothing is downloaded.", path="read")


def main() -> None:
    (config,) = cli.parse(__doc__, (FetchConfig,))
    if config.vocab in ELSEWHERE:
        raise UserError(f"--vocab {config.vocab}: cannot be downloaded here: {ELSEWHERE[config.vocab]}")
    path = Path(config.output_path or f"models/{config.vocab}")
    if path.exists():
        if not path.is_file() or not KNOWN[config.vocab].matches(path.read_bytes()):
            raise UserError(f"--output_path {path}: already exists and is not the published {config.vocab}; "
                            "move it away first")
        print(f"{path}: already there (SHA-256 verified)")
    elif config.from_file:
        install_file(Path(config.from_file), path, config.vocab)
        print(f"{path}: installed from {config.from_file} (SHA-256 verified)")
    else:
        fetch(path, config.vocab)


if __name__ == "__main__":
    cli.run(main)
