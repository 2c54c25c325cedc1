"""Convert a pretrained T5 or T5 v1.1 from UER to Hugging Face, and check that its logits stay the same."""

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

    type: str | None = flag(None, "Kind of T5 (default: what the weights hold).", choices=("t5", "t5-v1_1"))


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    export({name: ARCHITECTURES[name] for name in ("t5", "t5-v1_1")}, flags, flags.type)


if __name__ == "__main__":
    cli.run(main)
