"""Tag the named entities of texts with a fine-tuned model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli


def main() -> None:
    from uer.finetuning.infer import infer
    from uer.finetuning.tasks.ner import Ner

    infer(__doc__, Ner)


if __name__ == "__main__":
    cli.run(main)
