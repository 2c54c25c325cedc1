"""Label texts with all heads of a model that several datasets have trained."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli


def main() -> None:
    from uer.finetuning.infer import infer
    from uer.finetuning.tasks.multi_task import MultiTask

    infer(__doc__, MultiTask)


if __name__ == "__main__":
    cli.run(main)
