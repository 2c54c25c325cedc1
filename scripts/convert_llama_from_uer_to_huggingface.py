"""Convert a LLaMA from UER to Hugging Face, and check that its logits stay the same.

--output_dir DIR writes a folder that transformers opens; --output_model_path FILE the weights alone. A classifier must
have been trained with --pooling last and prediction_head linear: Hugging Face's has one layer.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _to_huggingface import BpeExportFlags, export

from uer import cli
from uer.config import flag
from uer.convert import ARCHITECTURES


@dataclass(frozen=True)
class Flags(BpeExportFlags):
    """The flags of this script."""

    type: str = flag("lm", "Language model, or fine-tuned classifier.", choices=("lm", "text_classification"))


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    export(ARCHITECTURES["llama"], flags, flags.type)


if __name__ == "__main__":
    cli.run(main)
