"""Compare pretraining runs by their held-out loss: a table with errors over seeds, and a picture.

    python3 scripts/compare_runs.py --runs "uer=a7.jsonl,a8.jsonl" "modern=b7.jsonl,b8.jsonl" --output_path runs.png

Each run is a name and the --metrics_path files of its seeds. The held-out losses must be of the same rows and masks:
the same --dev_dataset_path (or --dev_fraction), and --eval_masking tokens where the trainings mask otherwise. The
loss of an mlm model with such masks is the logarithm of its pseudo-perplexity per token.

The picture shows the loss over updates, real tokens, floating-point operations and seconds. Operations are there where
pretrain.py knew the device's peak or had --peak_flops. Differences are those of runs with the same position in their
lists (so give the seeds in the same order), with their standard error.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _runs import AXES, Curve, compared, read_curve, table
from plot_training import FORMATS, picture_format, require_matplotlib

from uer import cli
from uer.config import REQUIRED, flag
from uer.errors import UserError
from uer.files import atomic_path
from uer.paths import File


@dataclass(frozen=True)
class CompareRunsConfig:
    """The runs, and the output files."""

    runs: tuple[str, ...] = flag(REQUIRED, "NAME=FILE,FILE,... for each run: the --metrics_path files of its seeds.")
    output_path: str | None = flag(None, "The picture (default: none).", path="write")
    json_path: str | None = flag(None, "The rows of the table as JSON lines (default: none).", path="write")

    def problems(self) -> list[str]:
        found = [f"--runs {run}: must be NAME=FILE,FILE,..." for run in self.runs
                 if not all(run.partition("=")) or not all(run.partition("=")[2].split(","))]
        names = [run.partition("=")[0] for run in self.runs]
        found += [f"--runs: {name} is named twice" for name in sorted(set(names)) if names.count(name) > 1]
        if self.output_path and picture_format(self.output_path) not in FORMATS:
            found.append(f"--output_path {self.output_path}: the name must end in .{', .'.join(FORMATS)}")
        return found

    def reads(self) -> list[File]:
        """The metrics files."""
        return [File("--runs", path) for run in self.runs for path in run.partition("=")[2].split(",")]


def main() -> None:
    """Read, print the table, draw."""
    config, = cli.parse(__doc__, (CompareRunsConfig,))
    if config.output_path:
        require_matplotlib()
    groups = {name: [read_curve(path) for path in paths.split(",")]
              for name, _, paths in (run.partition("=") for run in config.runs)}
    counts = {len(curves) for curves in groups.values()}
    if len(counts) > 1:
        raise UserError("--runs: every run needs the same number of seeds, because differences are paired")
    rows = compared(groups)
    print("\n".join(table(rows)))
    if config.json_path:
        with atomic_path(config.json_path) as temporary:
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    if config.output_path:
        draw(groups, config.output_path)
        print(f"\n{config.output_path}")


def draw(groups: dict[str, list[Curve]], output_path: str) -> None:
    """A panel for each axis; a colour for each run, a line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(2, 2, figsize=(12, 8), layout="constrained", sharey=True)
    for panel, (axis, words) in zip(grid.flat, AXES.items()):
        for number, (name, curves) in enumerate(groups.items()):
            for seed, curve in enumerate(curves):
                panel.plot(curve.axes[axis], curve.losses, ".-", markersize=4, linewidth=1.2, color=f"C{number % 10}",
                           label=None if seed else name)
        panel.set_xlabel(words)
        panel.set_xscale("log")
        panel.grid(alpha=0.3)
    for panel in grid[:, 0]:
        panel.set_ylabel("held-out loss")
    _limit(grid[0, 0], groups)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(groups)))
    with atomic_path(output_path) as temporary:
        figure.savefig(temporary, dpi=120, format=picture_format(output_path))
    pyplot.close(figure)


def _limit(panel: Any, groups: dict[str, list[Curve]]) -> None:
    """Show the losses without the first ones, which are large and say little; but the ends of all runs."""
    curves = [curve for curves in groups.values() for curve in curves]
    losses = [loss for curve in curves for loss in curve.losses if math.isfinite(loss)]
    if not losses:
        return
    lowest, last = min(losses), max([curve.losses[-1] for curve in curves if math.isfinite(curve.losses[-1])] or losses)
    panel.set_ylim(lowest - 0.1, max(last, min(max(losses), lowest + 3.0)) + 0.1)


if __name__ == "__main__":
    cli.run(main)
