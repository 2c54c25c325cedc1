"""Convert adapters (LoRA) from UER to a folder that peft opens.

The model that they belong to is converted by convert_bert_from_uer_to_huggingface.py and the like.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _lora import ExportFlags, export_adapters

from uer import cli


def main() -> None:
    (flags,) = cli.parse(__doc__, (ExportFlags,))
    export_adapters(flags)


if __name__ == "__main__":
    cli.run(main)
