"""Fine-tune a pretrained model to find named entities."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.ner import Ner

    finetune(__doc__, Ner)


if __name__ == "__main__":
    cli.run(main)
