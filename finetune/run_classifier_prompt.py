"""Fine-tune a masked language model to label texts by filling in the answer of a prompt."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import finetune
    from uer.finetuning.tasks.prompt import PromptClassification

    finetune(__doc__, PromptClassification)


if __name__ == "__main__":
    cli.run(main)
