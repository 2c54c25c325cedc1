"""Convert a pretrained LLaMA from Hugging Face (folder, .safetensors or .bin) to UER, and check its logits."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _to_uer import ImportFlags, import_model

from uer import cli
from uer.convert import ARCHITECTURES


def main() -> None:
    (flags,) = cli.parse(__doc__, (ImportFlags,))
    import_model(ARCHITECTURES["llama"], flags, None)


if __name__ == "__main__":
    cli.run(main)
