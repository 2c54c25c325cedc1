"""Convert a LLaMA from Hugging Face (folder, .safetensors or .bin) to UER, and check its logits."""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _to_uer import FinetunedImportFlags, import_model

from uer import cli
from uer.config import flag
from uer.convert import ARCHITECTURES


@dataclass(frozen=True)
class Flags(FinetunedImportFlags):
    """The flags of this script."""

    type: str = flag("lm", "Language model, or fine-tuned classifier.", choices=("lm", "text_classification"))


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    import_model(ARCHITECTURES["llama"], flags, flags.type)


if __name__ == "__main__":
    cli.run(main)
