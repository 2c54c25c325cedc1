"""Label question and sentence pairs with a fine-tuned model of answer selection."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli


def main() -> None:
    from uer.finetuning.infer import infer
    from uer.finetuning.tasks.dbqa import Dbqa

    infer(__doc__, Dbqa)


if __name__ == "__main__":
    cli.run(main)
