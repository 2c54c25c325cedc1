"""Fine-tune a classifier by cross-validation: every part of the training examples is the dev set once."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.folds import cross_validate

    cross_validate(__doc__)


if __name__ == "__main__":
    cli.run(main)
