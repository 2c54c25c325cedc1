"""The scoreboard as a picture: filled circles are ours, with the spread over seeds; open diamonds are published."""

from pathlib import Path

from uer.data.files import atomic_path
from uer.errors import UserError
from uer.finetuning.scoreboard import Row


def draw(rows: list[Row], tasks: list[str], path: Path) -> None:
    """Write a PNG.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("the chart needs matplotlib (pip install matplotlib); --chart false leaves it out") from None
    columns = [*tasks, "score"]
    figure = Figure(figsize=(1.5 + 1.5 * len(columns), 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    models = [row for row in rows if row.source == "ours"]
    for number, ours in enumerate(models):
        after = rows.index(ours) + 1
        published = rows[after] if after < len(rows) and rows[after].source == "published" else None
        offset = 0.7 * ((number + 0.5) / len(models) - 0.5)
        _draw_model(axes, columns, ours, published, offset, f"C{number}")
    for border in range(1, len(columns)):
        axes.axvline(border - 0.5, color="0.85", linewidth=0.8)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_xticks(range(len(columns)), [*tasks, "score (mean)"])
    axes.set_ylabel("accuracy on dev, percent")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=min(4, 2 * len(models)), frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _draw_model(axes, columns: list[str], ours: Row, published: Row | None, offset: float, colour: str) -> None:
    """One model's marks, side by side with the other models' in each column."""
    for row, style in ((ours, {"marker": "o"}), (published, {"marker": "D", "markerfacecolor": "none"})):
        if row is None:
            continue
        places, heights, below, above = [], [], [], []
        for place, column in enumerate(columns):
            cell = row.cells.get(column)
            height = row.score if column == "score" else cell.score if cell else None
            if height is None:
                continue
            places.append(place + offset)
            heights.append(height)
            below.append(height - cell.low if cell and cell.low is not None else 0.0)
            above.append(cell.high - height if cell and cell.high is not None else 0.0)
        label = row.name if row.source == "ours" else f"{row.name} (published)"
        axes.errorbar(places, heights, yerr=(below, above), linestyle="none", color=colour, capsize=3, label=label,
                      **style)
        if row.source == "ours":
            for place, height in zip(places, heights):
                axes.annotate(f"{height:.1f}", (place, height), xytext=(6, 0), textcoords="offset points",
                              va="center", fontsize=8, color=colour)
