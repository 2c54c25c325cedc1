"""Fine-tune a pretrained model to select the sentences that answer a question."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.dbqa import Dbqa

    finetune(__doc__, Dbqa)


if __name__ == "__main__":
    cli.run(main)
