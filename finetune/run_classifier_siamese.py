"""Fine-tune a pretrained model on pairs of texts, each text encoded on its own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.siamese import Siamese

    finetune(__doc__, Siamese)


if __name__ == "__main__":
    cli.run(main)
