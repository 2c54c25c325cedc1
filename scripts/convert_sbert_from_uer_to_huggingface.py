"""Convert an SBERT or a model of run_simcse.py from UER to Hugging Face, for sentence-transformers too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _to_huggingface import ExportFlags, export

from uer import cli
from uer.convert import ARCHITECTURES


def main() -> None:
    (flags,) = cli.parse(__doc__, (ExportFlags,))
    export(ARCHITECTURES["sbert"], flags, None)


if __name__ == "__main__":
    cli.run(main)
