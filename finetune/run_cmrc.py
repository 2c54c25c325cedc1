"""Fine-tune a pretrained model to find the answer to a question in a text (CMRC 2018, SQuAD)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.cmrc import ReadingComprehension

    finetune(__doc__, ReadingComprehension)


if __name__ == "__main__":
    cli.run(main)
