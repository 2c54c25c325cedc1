"""Convert a fine-tuned token classifier from UER to Hugging Face, and check that its logits stay the same.

Labels, tokenizer and architecture are read from the settings beside the weights, where there are any.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _to_huggingface import ExportFlags, export

from uer import cli
from uer.convert import ARCHITECTURES


def main() -> None:
    (flags,) = cli.parse(__doc__, (ExportFlags,))
    export(ARCHITECTURES["bert"], flags, "token_classification")


if __name__ == "__main__":
    cli.run(main)
