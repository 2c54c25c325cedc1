"""Label texts, or pairs of texts, with a fine-tuned classifier."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli


def main() -> None:
    from uer.finetuning.infer import infer
    from uer.finetuning.tasks.classification import Classification

    infer(__doc__, Classification)


if __name__ == "__main__":
    cli.run(main)
