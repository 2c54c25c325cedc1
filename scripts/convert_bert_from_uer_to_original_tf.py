"""Convert a pretrained BERT from UER to the original TensorFlow checkpoint, without TensorFlow."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _tensorflow import BertFlags, TensorflowExportFlags, export_tensorflow

from uer import cli
from uer.convert import ARCHITECTURES


def main() -> None:
    flags, bert = cli.parse(__doc__, (TensorflowExportFlags, BertFlags))
    export_tensorflow(ARCHITECTURES["bert"], flags, bert.type)


if __name__ == "__main__":
    cli.run(main)
