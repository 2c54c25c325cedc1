"""Fine-tune a pretrained model to predict a number for a text or a pair of texts."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.regression import Regression

    finetune(__doc__, Regression)


if __name__ == "__main__":
    cli.run(main)
