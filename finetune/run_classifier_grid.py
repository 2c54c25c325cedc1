"""Try every setting of a grid for a classifier; a stopped grid goes on where it was."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.finetuning.start import announce


def main() -> None:
    announce()
    from uer.finetuning.command import parse_with
    from uer.finetuning.config import GridConfig
    from uer.finetuning.grid import run_grid
    from uer.finetuning.grid_results import require_a_score, table
    from uer.finetuning.tasks.classification import Classification

    command, (grid,) = parse_with(__doc__, Classification, (GridConfig,))
    records = run_grid(command, grid)
    print("\n".join(table(records)))
    require_a_score(records)


if __name__ == "__main__":
    cli.run(main)
