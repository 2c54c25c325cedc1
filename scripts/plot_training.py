"""Draw the curves of one or several runs from their metrics files: loss, held-out metrics, learning rate, speed.

    python3 scripts/plot_training.py --metrics_path run_a.jsonl run_b.jsonl --output_path training.png

The files are those of --metrics_path, of pretraining and of fine-tuning (a curve for each seed and fold), or the
results of run_classifier_grid.py, which are drawn as scores by learning rate.
"""

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.config import REQUIRED, flag
from uer.errors import UserError
from uer.files import atomic_path
from uer.json_files import parse_json
from uer.reading import read_bytes

PANELS = {"loss": "loss (mean of the interval)", "accuracy": "accuracy", "f1": "F1", "macro_f1": "macro F1",
          "em": "exact match", "precision": "precision", "recall": "recall", "spearman": "Spearman's correlation",
          "pearson": "Pearson's correlation", "mse": "mean squared error", "learning_rate": "learning rate",
          "tokens_per_second": "tokens a second", "examples_per_second": "examples a second",
          "perplexity": "perplexity"}
# Metrics that a run with several targets has for each of them, such as loss_mlm and loss_sp.
TARGET_PANELS = {"loss": "loss", "acc": "accuracy", "perplexity": "perplexity"}
NUMBERS = {"loss", "interval_real_tokens", "interval_seconds", "flops_per_token"}
OTHER_NAMES = {"acc": "accuracy", "train_loss": "loss"}
STYLES = {"train": {"linestyle": "-"}, "eval": {"linestyle": "--"}, "test": {"linestyle": "none", "marker": "x"}}
WORDS = {"train": "", "eval": " held out", "test": " test"}
# Settings that distinguish the runs in one file.
SETTINGS = ("fold", "seed", "batch_size", "learning_rate", "epochs_num")
FORMATS = ("png", "pdf", "svg", "jpg")
MOST_NAMES = 12  # in a legend


@dataclass(frozen=True)
class PlotConfig:
    """The runs, and the output file."""

    metrics_path: tuple[str, ...] = flag(REQUIRED, "Files that were written with --metrics_path, or a grid's results.",
                                         path="read")
    output_path: str = flag("training.png", "The picture.", path="write")
    skip_steps: int = flag(0, "Leave out the steps before this one (the first losses are large).")

    def problems(self) -> list[str]:
        known = picture_format(self.output_path) in FORMATS
        return [] if known else [f"--output_path {self.output_path}: the name must end in .{', .'.join(FORMATS)}"]


def main() -> None:
    """Read the flags and draw."""
    config, = cli.parse(__doc__, (PlotConfig,))
    require_matplotlib()
    runs = {path: read_metrics(path, config.skip_steps) for path in dict.fromkeys(config.metrics_path)}
    draw(runs, config.output_path)
    print(f"{config.output_path}: {', '.join(f'{path} ({len(run)} reports)' for path, run in runs.items())}")


def picture_format(path: str) -> str:
    """The format that the file name's suffix names; png if there is none."""
    return Path(path).suffix[1:].lower() or "png"


def require_matplotlib() -> None:
    """
    Raises:
        UserError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("this script needs the package matplotlib: pip install matplotlib")


def read_metrics(path: str, skip_steps: int = 0, flag: str = "--metrics_path") -> list[dict[str, Any]]:
    """The records of a file, sorted by step. A resumed run repeats steps from its last checkpoint on: what the file has
    of later steps from before is left out.

    Args:
        path: the file.
        skip_steps: leave out the steps before this one.
        flag: the flag that names the file, for the messages.

    Returns:
        Records with `kind` (train, eval, test, or grid for a trial of a grid), `run` (the settings that distinguish
        the runs in the file, as text), `step` or `epoch`, and metrics.

    Raises:
        UserError: the file is missing or has no reports, or a line is not JSON; the last line may be incomplete,
            because the run may have been killed.
    """
    lines = read_bytes(path, flag).decode("utf-8", "replace").removesuffix("\n").split("\n")
    found: dict[tuple, dict[str, Any]] = {}
    last: dict[str, int] = {}  # the step of each run's last record
    for number, line in enumerate(lines, start=1):
        try:
            for record in _records(parse_json(line, path, number)):
                run, step = json.dumps(record["run"]), record.get("step")
                if step is not None and step < last.get(run, 0):
                    found = {key: one for key, one in found.items() if key[1] != run or one.get("step", 0) <= step}
                last[run] = step or 0
                found[record["kind"], run, step, record.get("epoch")] = record
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                raise UserError(f"{path}, line {number}: not a line of --metrics_path") from None
    kept = [record for record in found.values() if record.get("step", skip_steps) >= skip_steps]
    if not any(record["kind"] in ("train", "grid") for record in kept):
        raise UserError(f"{flag} {path}: no reports in it".strip()
                        + (f" from step {skip_steps} on (--skip_steps)" if skip_steps else " yet"))
    _name_runs(kept)
    return sorted(kept, key=lambda record: (record.get("step", 0), record.get("epoch", 0)))


def _records(line: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of one line: a report of pretraining, a step or an epoch of fine-tuning, or a trial of a grid.

    Raises:
        KeyError, TypeError, ValueError: the line is none of these.
    """
    if isinstance(line, dict) and "key" not in line:
        line = {name: value for name, value in line.items() if value is not None}  # null: all updates were skipped
    if not isinstance(line, dict) or not all(isinstance(line[name], (int, float)) for name in NUMBERS & line.keys()):
        raise TypeError("not the numbers of a report")
    metrics = {OTHER_NAMES.get(name, name): value for name, value in line.items()}
    settings = {name: line[name] for name in SETTINGS if name in line}
    if "kind" in line:
        settings.pop("learning_rate", None)  # changes with the step
        record = {**metrics, "run": settings, "step": int(line["step"])}
        return [{**record, "kind": {"dev": "eval"}.get(line["kind"], line["kind"])}]
    if "key" in line:
        if line["score"] is None:  # a trial that diverged
            return []
        return [{**line, "score": float(line["score"]), "kind": "grid", "run": settings}]
    metrics.pop("learning_rate", None)
    record = {**metrics, "run": settings, "epoch": int(line["epoch"])}
    if line["set"] == "test":
        return [{**record, "kind": "test"}]
    loss = {"loss": record.pop("loss")}
    return [{"epoch": record["epoch"], "run": settings, "kind": "train", **loss}, {**record, "kind": "eval"}]


def _name_runs(records: list[dict[str, Any]]) -> None:
    """Replace each record's `run` by the settings that differ among the records, as text."""
    runs = [record["run"] for record in records]
    differing = [name for name in SETTINGS if len({json.dumps(run.get(name)) for run in runs}) > 1]
    for record in records:
        record["run"] = ", ".join(f"{name} {record['run'].get(name)}" for name in differing)


def labels(paths: Sequence[str]) -> list[str]:
    """Different names for the runs: file names without suffixes, with as many folders as necessary.

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
    """Write a picture of the runs.

    Raises:
        UserError: curves and grids are mixed, or some curves go by steps and others by epochs only.
    """
    require_matplotlib()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    every = [record for records in runs.values() for record in records]
    grids = {record["kind"] == "grid" for record in every}
    if len(grids) > 1:
        raise UserError("--metrics_path: a grid's results and curves do not go into one picture")
    figure = _draw_grids(pyplot, runs) if grids.pop() else _draw_curves(pyplot, runs, every)
    with atomic_path(output_path) as temporary:
        figure.savefig(temporary, dpi=120, format=picture_format(output_path))
    pyplot.close(figure)


def _draw_curves(pyplot: Any, runs: dict[str, list[dict[str, Any]]], every: list[dict[str, Any]]) -> Any:
    """One panel for each metric, one colour for each run; dashed: held-out data, crosses: test data."""
    axis = next((axis for axis in ("step", "epoch") if all(axis in record for record in every)), None)
    if axis is None:
        raise UserError("--metrics_path: some of the files count steps and others epochs; draw them one by one")
    titles = panels(every)
    shown = list(titles)
    rows = -(-len(shown) // 2)
    figure, grid = pyplot.subplots(rows, 2, figsize=(12, 4 * rows), layout="constrained", sharex=True, squeeze=False)
    curves = _curves(runs)
    for axes, name in zip(grid.flat, shown):
        for number, (label, records) in enumerate(curves.items()):
            for kind, style in STYLES.items():
                points = [(record[axis], record[name]) for record in records
                          if record["kind"] == kind and isinstance(record.get(name), (int, float))]
                if points:
                    axes.plot(*zip(*points), **{"marker": ".", "markersize": 5, "linewidth": 1.5, **style},
                              color=f"C{number % 10}", label=label + WORDS[kind])
        axes.set_title(titles[name])
        axes.grid(alpha=0.3)
        if name.endswith("_per_second"):
            axes.set_ylim(bottom=0)
        if 0 < len(axes.get_legend_handles_labels()[0]) <= MOST_NAMES:
            axes.legend()
        axes.set_xlabel(axis)
        axes.tick_params(labelbottom=True)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in grid.flat[len(shown):]:
        axes.set_visible(False)
    return figure


def panels(records: list[dict[str, Any]]) -> dict[str, str]:
    """The metrics that are drawn, with their titles: those of `PANELS`, then those of single targets.

    >>> panels([{"loss": 3.0, "step": 5}, {"acc_sp": 0.5}])
    {'loss': 'loss (mean of the interval)', 'acc_sp': 'accuracy of sp'}
    """
    names = dict.fromkeys(name for record in records for name in record)
    targets = [(name, *name.partition("_")[::2]) for name in names]
    return {**{name: title for name, title in PANELS.items() if name in names},
            **{name: f"{TARGET_PANELS[kind]} of {target}" for name, kind, target in targets
               if kind in TARGET_PANELS and target}}


def _curves(runs: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The records of each run by the run's name."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, records in zip(labels(list(runs)), runs.values()):
        for record in records:
            curves.setdefault(f"{name}: {record['run']}" if record.get("run") else name, []).append(record)
    return curves


def _draw_grids(pyplot: Any, runs: dict[str, list[dict[str, Any]]]) -> Any:
    """One panel for each grid: the score of every trial by learning rate, and the median of its seeds as a line."""
    from statistics import median

    figure, grid = pyplot.subplots(1, len(runs), figsize=(7 * len(runs), 5), layout="constrained", squeeze=False)
    for axes, name, records in zip(grid.flat, labels(list(runs)), runs.values()):
        settings = sorted({(record["batch_size"], record["epochs_num"]) for record in records})
        for number, (batch_size, epochs_num) in enumerate(settings):
            scores: dict[float, list[float]] = {}
            for record in records:
                if (record["batch_size"], record["epochs_num"]) == (batch_size, epochs_num):
                    scores.setdefault(record["learning_rate"], []).append(record["score"])
            rates = sorted(scores)
            axes.plot(rates, [median(scores[rate]) for rate in rates], color=f"C{number % 10}",
                      label=f"batch {batch_size}, {epochs_num} epochs")
            axes.plot(*zip(*((rate, score) for rate in rates for score in scores[rate])), ".", color=f"C{number % 10}")
        axes.set_xscale("log")
        axes.set_title(name)
        axes.set_xlabel("learning rate")
        axes.set_ylabel(f"{records[0].get('score_name', 'score')} on dev")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


if __name__ == "__main__":
    cli.run(main)
