"""Fine-tune a pretrained model on texts with any number of labels each."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.multi_label import MultiLabel

    finetune(__doc__, MultiLabel)


if __name__ == "__main__":
    cli.run(main)
