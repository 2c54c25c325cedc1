"""Choose the idioms that were removed from passages with a fine-tuned model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli


def main() -> None:
    from uer.finetuning.infer import infer
    from uer.finetuning.tasks.chid import Chid

    infer(__doc__, Chid)


if __name__ == "__main__":
    cli.run(main)
