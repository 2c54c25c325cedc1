"""Convert a fine-tuned token classifier from Hugging Face to UER, and check that its logits stay the same.

Labels, tokenizer and architecture are written beside the weights, so that the inference script needs nothing else.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _to_uer import FinetunedImportFlags, import_model

from uer import cli
from uer.convert import ARCHITECTURES


def main() -> None:
    (flags,) = cli.parse(__doc__, (FinetunedImportFlags,))
    import_model(ARCHITECTURES["bert"], flags, "token_classification")


if __name__ == "__main__":
    cli.run(main)
