"""Fine-tune a pretrained model on multiple-choice questions about texts (C3)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.c3 import MultipleChoiceTask

    finetune(__doc__, MultipleChoiceTask)


if __name__ == "__main__":
    cli.run(main)
