"""Convert a pretrained ALBERT from UER to the original TensorFlow checkpoint, without TensorFlow."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _tensorflow import TensorflowExportFlags, export_tensorflow

from uer import cli
from uer.convert import ARCHITECTURES


def main() -> None:
    (flags,) = cli.parse(__doc__, (TensorflowExportFlags,))
    export_tensorflow(ARCHITECTURES["albert"], flags, None)


if __name__ == "__main__":
    cli.run(main)
