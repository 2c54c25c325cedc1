"""The scoreboard as a picture: filled circles are ours, lines their spread over seeds, open diamonds are published."""

import importlib.util
from pathlib import Path
from typing import Any

from uer.errors import UserError
from uer.files import atomic_path
from uer.finetuning.scoreboard import Row, published_row


def require_matplotlib() -> None:
    """
    Raises:
        UserError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("the chart needs matplotlib (pip install matplotlib); --chart false leaves it out")


def draw(rows: list[Row], tasks: list[str], path: Path) -> None:
    """Write a PNG.

    Raises:
        UserError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [*tasks, "score"]
    figure = Figure(figsize=(3.5 + 1.5 * len(columns), 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    models = [row for row in rows if row.source == "ours"]
    label: str | None = "published"
    for number, row in enumerate(models):
        offset = 0.7 * ((number + 0.5) / len(models) - 0.5)
        if row.published:
            _draw_row(axes, columns, published_row(row.published, list(row.cells)), offset, label, "0.35", "D")
            label = None
        _draw_row(axes, columns, row, offset, row.name, f"C{number}", "o")
    for border in range(1, len(columns)):
        axes.axvline(border - 0.5, color="0.85", linewidth=0.8)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_xticks(range(len(columns)), [*tasks, "score (mean)"])
    axes.set_ylabel("accuracy on dev, percent")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _draw_row(axes: Any, columns: list[str], row: Row, offset: float, label: str | None, colour: str,
              marker: str) -> None:
    """One row's marks, beside the other models' in each column; ours with their figures and, of several seeds, the
    spread."""
    places, heights = [], []
    for place, column in enumerate(columns):
        cell = row.cells.get(column)
        height = row.score if column == "score" else cell.score if cell else None
        if height is None:
            continue
        places.append(place + offset)
        heights.append(height)
        if cell and cell.best.get("seeds", 1) > 1:
            axes.vlines(place + offset, cell.low, cell.high, color=colour, linewidth=2)
        if row.source == "ours":
            axes.annotate(f"{height:.1f}", (place + offset, height), xytext=(6, 0), textcoords="offset points",
                          va="center", fontsize=8, color=colour)
    axes.plot(places, heights, linestyle="none", marker=marker, color=colour, label=label,
              markerfacecolor=colour if row.source == "ours" else "none")
