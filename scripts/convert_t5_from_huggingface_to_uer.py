"""Convert a pretrained T5 or T5 v1.1 from Hugging Face (folder, .safetensors or .bin) to UER, and check its logits."""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _to_uer import DecoderImportFlags, import_model

from uer import cli
from uer.config import flag
from uer.convert import ARCHITECTURES


@dataclass(frozen=True)
class Flags(DecoderImportFlags):
    """The flags of this script."""

    type: str | None = flag(None, "Kind of T5 (default: what the weights hold).", choices=("t5", "t5-v1_1"))


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    import_model({name: ARCHITECTURES[name] for name in ("t5", "t5-v1_1")}, flags, flags.type)


if __name__ == "__main__":
    cli.run(main)
