"""Convert a pretrained Qwen2 or Qwen3 from UER to Hugging Face, and check that its logits stay the same.

--output_dir DIR writes a folder that transformers opens; --output_model_path FILE the weights alone.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _to_huggingface import QwenExportFlags, export

from uer import cli
from uer.convert import ARCHITECTURES


def main() -> None:
    (flags,) = cli.parse(__doc__, (QwenExportFlags,))
    export({name: ARCHITECTURES[name] for name in ("qwen2", "qwen3")}, flags, None)


if __name__ == "__main__":
    cli.run(main)
