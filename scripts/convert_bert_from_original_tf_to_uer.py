"""Convert a pretrained BERT from the original TensorFlow checkpoint to UER, without TensorFlow.

The way there and back gives the same bits; only the segment embedding's padding row, which is never read, is new.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _tensorflow import BertFlags, TensorflowImportFlags, import_tensorflow

from uer import cli
from uer.convert import ARCHITECTURES


def main() -> None:
    flags, bert = cli.parse(__doc__, (TensorflowImportFlags, BertFlags))
    import_tensorflow(ARCHITECTURES["bert"], flags, bert.type)


if __name__ == "__main__":
    cli.run(main)
