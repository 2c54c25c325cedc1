"""Convert a pretrained BERT from Hugging Face (folder, .safetensors or .bin) to UER, and check its logits.

The way there and back gives the same bits; only the segment embedding's padding row, which is never read, is new.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _to_uer import ImportFlags, import_model

from uer import cli
from uer.config import flag
from uer.convert import ARCHITECTURES


@dataclass(frozen=True)
class Flags(ImportFlags):
    """The flags of this script."""

    type: str | None = flag(None, "Targets of the model: bert is mlm and next-sentence prediction (default: what the "
                                  "weights hold).", choices=("bert", "mlm"))


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    import_model(ARCHITECTURES["bert"], flags, flags.type)


if __name__ == "__main__":
    cli.run(main)
