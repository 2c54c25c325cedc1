"""Draw loss, accuracy, learning rate and throughput of one or several runs from their --metrics_path files.

    python3 scripts/plot_training.py --metrics_path run_a.jsonl run_b.jsonl --output_path training.png
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.config import REQUIRED, flag
from uer.errors import UserError
from uer.json_files import parse_json
from uer.reading import read_bytes

PANELS = (("loss", "loss (mean of the interval)"), ("acc", "accuracy"), ("learning_rate", "learning rate"),
          ("tokens_per_second", "tokens a second"))


@dataclass(frozen=True)
class PlotConfig:
    """Which runs, and where the picture goes."""

    metrics_path: tuple[str, ...] = flag(REQUIRED, "Files that pretrain.py wrote with --metrics_path.", path="read")
    output_path: str = flag("training.png", "The picture.", path="write")
    skip_steps: int = flag(0, "Leave out what comes before this step (the first losses are large).")


def main() -> None:
    """Read the flags and draw."""
    config, = cli.parse(__doc__, (PlotConfig,))
    runs = {path: read_metrics(path, config.skip_steps) for path in config.metrics_path}
    draw(runs, config.output_path)
    print(f"{config.output_path}: {', '.join(f'{path} ({len(run)} reports)' for path, run in runs.items())}")


def read_metrics(path: str, skip_steps: int = 0) -> list[dict[str, Any]]:
    """The lines of a metrics file by step; of a step that a resumed run did again, the last.

    Raises:
        UserError: the file is missing or holds no reports; the line that is not JSON, unless it is the last one, which
            a killed run may leave unfinished.
    """
    lines = read_bytes(path, "--metrics_path").decode("utf-8", "replace").removesuffix("\n").split("\n")
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line, path, number)
            if not (isinstance(record["step"], int) and isinstance(record["kind"], str)):
                raise ValueError
            found[record["kind"], record["step"]] = record
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                raise UserError(f"{path}, line {number}: not a line of --metrics_path") from None
    kept = sorted((record for record in found.values() if record["step"] >= skip_steps), key=lambda r: r["step"])
    if not any(record["kind"] == "train" for record in kept):
        raise UserError(f"--metrics_path {path}: no reports in it yet")
    return kept


def labels(paths: Sequence[str]) -> list[str]:
    """What tells the runs apart: file names without their endings, with as many folders as it takes.

    >>> labels(["out/tiny/stage1.metrics.jsonl", "out/mini/stage1.metrics.jsonl"])
    ['tiny/stage1', 'mini/stage1']
    """
    parts = [Path(path).with_name(Path(path).name.partition(".")[0] or Path(path).name).parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        short = ["/".join(part[-count:]) for part in parts]
        if len(set(short)) == len(short):
            return short
    return list(paths)


def draw(runs: dict[str, list[dict[str, Any]]], output_path: str) -> None:
    """One panel a figure, one colour a run; held-out figures are dashed."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("this script needs the package matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = labels(list(runs))
    figure, grid = pyplot.subplots(2, 2, figsize=(12, 8), layout="constrained", sharex=True)
    for axes, (name, title) in zip(grid.flat, PANELS):
        for number, records in enumerate(runs.values()):
            for kind, style in (("train", "-"), ("eval", "--")):
                points = [(record["step"], record[name]) for record in records
                          if record["kind"] == kind and name in record]
                if points:
                    axes.plot(*zip(*points), style, color=f"C{number % 10}", linewidth=1.5, marker=".", markersize=4,
                              label=names[number] + (" held out" if kind == "eval" else ""))
        axes.set_title(title)
        axes.grid(alpha=0.3)
        if name == "tokens_per_second":
            axes.set_ylim(bottom=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    for axes in grid[1]:
        axes.set_xlabel("step")
    figure.savefig(output_path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    cli.run(main)
