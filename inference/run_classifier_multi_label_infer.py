"""Give texts any number of labels with a fine-tuned model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli


def main() -> None:
    from uer.finetuning.infer import infer
    from uer.finetuning.tasks.multi_label import MultiLabel

    infer(__doc__, MultiLabel)


if __name__ == "__main__":
    cli.run(main)
