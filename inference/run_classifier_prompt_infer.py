"""Label texts by a prompt whose answer a masked language model fills in."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli


def main() -> None:
    from uer.finetuning.infer import infer
    from uer.finetuning.tasks.prompt import PromptClassification

    infer(__doc__, PromptClassification)


if __name__ == "__main__":
    cli.run(main)
