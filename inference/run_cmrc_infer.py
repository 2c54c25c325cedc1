"""Answer questions from texts with a fine-tuned model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli


def main() -> None:
    from uer.finetuning.infer import infer
    from uer.finetuning.tasks.cmrc import ReadingComprehension

    infer(__doc__, ReadingComprehension)


if __name__ == "__main__":
    cli.run(main)
