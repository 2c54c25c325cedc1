"""Fine-tune a pretrained model on texts, or pairs of texts, with one label each."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.classification import Classification

    finetune(__doc__, Classification)


if __name__ == "__main__":
    cli.run(main)
