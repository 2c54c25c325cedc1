"""Fine-tune a model with an encoder and a decoder to write a text for every text."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.text2text import Text2Text

    finetune(__doc__, Text2Text)


if __name__ == "__main__":
    cli.run(main)
