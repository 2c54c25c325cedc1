"""Fine-tune a pretrained model to choose the idioms that were removed from passages."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.chid import Chid

    finetune(__doc__, Chid)


if __name__ == "__main__":
    cli.run(main)
