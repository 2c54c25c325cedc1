"""Fine-tune one pretrained model to label the texts of several datasets."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.multi_task import MultiTask

    finetune(__doc__, MultiTask)


if __name__ == "__main__":
    cli.run(main)
