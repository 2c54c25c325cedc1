"""Fine-tune a pretrained model to give similar sentences similar vectors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.simcse import Simcse

    finetune(__doc__, Simcse)


if __name__ == "__main__":
    cli.run(main)
