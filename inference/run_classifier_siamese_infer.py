"""Label pairs of texts with a fine-tuned siamese classifier."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli


def main() -> None:
    from uer.finetuning.infer import infer
    from uer.finetuning.tasks.siamese import Siamese

    infer(__doc__, Siamese)


if __name__ == "__main__":
    cli.run(main)
