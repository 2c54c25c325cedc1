"""Convert a pretrained Pegasus from UER to Hugging Face, and check that its logits stay the same."""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _to_huggingface import DecoderExportFlags, export

from uer import cli
from uer.config import flag
from uer.convert import ARCHITECTURES


@dataclass(frozen=True)
class Flags(DecoderExportFlags):
    """The flags of this script."""

    max_seq_length: int | None = flag(None, "Positions of the model (default: its settings', or else 1024).")


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    export(ARCHITECTURES["pegasus"], flags, None)


if __name__ == "__main__":
    cli.run(main)
