"""Convert a pretrained BERT from UER to Hugging Face, and check that its logits stay the same.

--output_dir DIR writes a folder that transformers opens; --output_model_path FILE the weights alone.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _to_huggingface import ExportFlags, export

from uer import cli
from uer.config import flag
from uer.convert import ARCHITECTURES


@dataclass(frozen=True)
class Flags(ExportFlags):
    """The flags of this script."""

    type: str | None = flag(None, "Targets of the model: bert is mlm and next-sentence prediction (default: what the "
                                  "weights hold).", choices=("bert", "mlm"))


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    export(ARCHITECTURES["bert"], flags, flags.type)


if __name__ == "__main__":
    cli.run(main)
