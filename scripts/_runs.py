"""Curves of pretraining runs, for `compare_runs.py` and `sweep.py`. Not a command.

A run is a file of --metrics_path. Its held-out losses stand over updates, real tokens, floating-point operations and
seconds, which are added up from its reports: evaluation between two reports counts as time, waiting after a kill does
not.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plot_training import read_metrics

from uer.errors import UserError

AXES = {"updates": "updates", "tokens": "real tokens", "flops": "floating-point operations", "seconds": "seconds"}


@dataclass(frozen=True)
class Curve:
    """The held-out loss of one run.

    Attributes:
        path: its metrics file.
        losses: one an evaluation, natural logarithm; NaN where it was no finite number.
        axes: a key of `AXES` -> how much of it was used at each evaluation.
    """

    path: str
    losses: list[float]
    axes: dict[str, list[float]]

    def used_until(self, loss: float, axis: str) -> float | None:
        """How much of an axis is used when the loss first is as low, on the straight line between two evaluations; None
        where it never is."""
        used = self.axes[axis]
        for number, found in enumerate(self.losses):
            if found <= loss:
                if not number:
                    return used[0]
                before = self.losses[number - 1]
                share = (before - loss) / (before - found) if math.isfinite(before) else 1.0
                return used[number - 1] + share * (used[number] - used[number - 1])
        return None


def read_curve(path: str) -> Curve:
    """
    Raises:
        UserError: the run has no held-out losses.
    """
    used = dict.fromkeys(AXES, 0.0)
    losses: list[float] = []
    axes: dict[str, list[float]] = {axis: [] for axis in AXES}
    for record in sorted(read_metrics(path, flag=""), key=lambda record: (record["step"], record["kind"] != "train")):
        if record["kind"] == "train":
            tokens = record.get("interval_real_tokens", math.nan)
            used["tokens"] += tokens
            used["flops"] += tokens * (record.get("flops_per_token") or math.nan)  # 0: not counted
            used["seconds"] += record.get("interval_seconds", math.nan)
        elif record["kind"] == "eval":
            used["updates"] = record["step"]
            losses.append(record.get("loss", math.nan))  # null in the file
            for axis, values in axes.items():
                values.append(used[axis])
    if not losses:
        raise UserError(f"{path}: no held-out losses in it (--dev_dataset_path or --dev_fraction)")
    return Curve(path, losses, axes)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error; NaN of a single value, or where a value is no finite number.

    >>> mean_and_error([1.0, 2.0, 3.0])
    (2.0, 0.5773502691896258)
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return statistics.mean(values), math.nan
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def with_error(values: Sequence[float], sign: bool = False) -> str:
    """Mean and standard error as text.

    >>> with_error([1.0, 2.0, 3.0]), with_error([0.5], sign=True)
    ('2.000 ± 0.577', '+0.500')
    """
    mean, error = mean_and_error(values)
    text = f"{mean:+.3f}" if sign else f"{mean:.3f}"
    return text if math.isnan(error) else f"{text} ± {error:.3f}"


def compared(groups: dict[str, list[Curve]]) -> list[dict[str, Any]]:
    """A row for each group of runs that differ in their seed alone; differences are paired, the first run of a group
    with the first run of the first group and so on.

    Returns:
        rows of `name`, `losses` (at the end), `differences` from the first group, and the means of `updates`, `tokens`,
        `flops`, `seconds`; `seconds_to_first`: the mean seconds until the mean loss of the first group's end, or None.
    """
    first = next(iter(groups.values()))
    goal = statistics.mean(curve.losses[-1] for curve in first)
    rows = []
    for name, curves in groups.items():
        reached = [curve.used_until(goal, "seconds") for curve in curves]
        rows.append({
            "name": name, "losses": [curve.losses[-1] for curve in curves],
            "differences": [curve.losses[-1] - other.losses[-1] for curve, other in zip(curves, first)],
            **{axis: statistics.mean(curve.axes[axis][-1] for curve in curves) for axis in AXES},
            "seconds_to_first": statistics.mean(reached) if all(each is not None for each in reached) else None})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of `compared` as a Markdown table."""
    lines = ["| run | seeds | held-out loss | perplexity | minus the first | updates | M tokens | TFLOP | seconds "
             "| seconds to the first's loss |", "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for number, row in enumerate(rows):
        perplexity = math.exp(min(statistics.mean(row["losses"]), 700.0))
        reached = "-" if row["seconds_to_first"] is None else f"{row['seconds_to_first']:.0f}"
        flops = "-" if math.isnan(row["flops"]) else f"{row['flops'] / 1e12:.1f}"
        difference = with_error(row["differences"], sign=True) if number else ""
        lines.append(f"| {row['name']} | {len(row['losses'])} | {with_error(row['losses'])} | {perplexity:.1f} | "
                     f"{difference} | {row['updates']:.0f} | {row['tokens'] / 1e6:.2f} | {flops} | "
                     f"{row['seconds']:.0f} | {reached} |")
    return lines
