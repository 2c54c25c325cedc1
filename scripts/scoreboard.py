"""Fine-tune the models of a JSON file on its tasks, and show their scores and the published ones in a table."""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.config import REQUIRED, flag
from uer.errors import UserError
from uer.files import atomic_path
from uer.finetuning.chart import draw, require_matplotlib
from uer.finetuning.command import parse_with
from uer.finetuning.config import GridConfig
from uer.finetuning.grid import run_grid
from uer.finetuning.scoreboard import architectures, best_cell, csv_text, make_rows, markdown, read_list
from uer.finetuning.tasks.classification import Classification
from uer.paths import File


@dataclass(frozen=True)
class ScoreboardConfig:
    """Flags of this script."""

    scoreboard_path: str = flag(REQUIRED, "JSON file with the keys tasks, models, grid, seeds, flags.", path="read")
    output_dir: str = flag("scoreboard", "Folder for scoreboard.md, .csv, .png and the trials' files.",
                           path="write_folder")
    run: bool = flag(True, "false: only collect the finished trials.")
    chart: bool = flag(True, "false: no PNG.")
    parallel_trials: int = flag(0, "Trials that run at once; 0: one for each GPU, or for each CPU core up to 4.")
    device: str = flag("auto", "Where to compute; auto: on CUDA if there is a GPU.", choices=("auto", "cpu", "cuda"))

    def writes(self) -> list[File]:
        """The table and the picture."""
        names = ("scoreboard.md", "scoreboard.csv", "scoreboard.png")
        return [File("--output_dir", str(Path(self.output_dir) / name)) for name in names]


def main() -> None:
    [config] = cli.parse(__doc__, (ScoreboardConfig,))
    if config.chart:
        require_matplotlib()
    entries = read_list(config.scoreboard_path)
    folder = Path(config.output_dir)
    prepared = []
    for entry in entries:
        argv = [*entry.argv(), "--output_model_path", str(folder / f"{entry.place}.bin"), "--device", config.device,
                "--parallel_trials", str(config.parallel_trials)]
        try:
            prepared.append((entry, parse_with(__doc__, Classification, (GridConfig,), argv)))
        except UserError as error:
            raise UserError(f"{config.scoreboard_path}: {entry.model} on {entry.task}: {error}") from None
    cells = {}
    for entry, (command, (grid,)) in prepared:
        print(f"== {entry.model} on {entry.task}", flush=True)
        cells[entry.model, entry.task] = best_cell(run_grid(command, grid, config.run))
    rows, tasks = make_rows(entries, cells), list(dict.fromkeys(entry.task for entry in entries))
    folder.mkdir(parents=True, exist_ok=True)
    table = markdown(rows, tasks, architectures(entries))
    for name, text in (("scoreboard.md", table), ("scoreboard.csv", csv_text(rows))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if config.chart:
        draw(rows, tasks, folder / "scoreboard.png")
    print(table)


if __name__ == "__main__":
    cli.run(main)
