"""Answer multiple-choice questions with a fine-tuned model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli


def main() -> None:
    from uer.finetuning.infer import infer
    from uer.finetuning.tasks.c3 import MultipleChoiceTask

    infer(__doc__, MultipleChoiceTask)


if __name__ == "__main__":
    cli.run(main)
