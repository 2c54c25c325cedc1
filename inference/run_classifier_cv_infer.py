"""Label texts with all models of a cross-validation: the mean of their logits decides."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli


def main() -> None:
    from uer.finetuning.folds import infer_with_folds

    infer_with_folds(__doc__)


if __name__ == "__main__":
    cli.run(main)
