"""Write a text for every text with a fine-tuned model that has an encoder and a decoder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli


def main() -> None:
    from uer.finetuning.infer import infer
    from uer.finetuning.tasks.text2text import Text2Text

    infer(__doc__, Text2Text)


if __name__ == "__main__":
    cli.run(main)
