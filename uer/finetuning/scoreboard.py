"""Tasks by models: ours beside the published figures, each traceable to its data, grid, seeds and weights."""

import csv
import io
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from uer import cli
from uer.config import ModelConfig
from uer.errors import UserError
from uer.family.architectures import described
from uer.finetuning.command import SHARED_SECTIONS
from uer.finetuning.config import ClassifierConfig, FinetuneConfig, GridConfig
from uer.finetuning.grid_results import summarise
from uer.finetuning.readers import member, read_json
from uer.model_settings import model_settings
from uer.text import amount
from uer.tokenizers import Vocab

# The published family: accuracy on dev, in percent, of the best of 18 settings at sequence length 128.
TASKS = ("book_review", "chnsenticorp", "lcqmc", "tnews", "iflytek", "ocnli")
PUBLISHED = {
    "Tiny 2/128": (83.4, 91.4, 81.8, 62.0, 55.0, 60.3),
    "Mini 4/256": (85.7, 93.7, 86.1, 63.9, 58.3, 67.4),
    "Small 4/512": (87.5, 93.4, 86.5, 65.1, 59.4, 69.7),
    "Medium 8/512": (88.7, 94.8, 88.1, 65.6, 59.5, 71.2),
    "Base 12/768": (90.1, 95.2, 89.2, 67.0, 60.9, 75.5),
}
# The published means were taken before rounding.
PUBLISHED_SCORES = {"Tiny 2/128": 72.3, "Mini 4/256": 75.9, "Small 4/512": 76.9, "Medium 8/512": 78.0,
                    "Base 12/768": 79.7}
LIST_KEYS = {"tasks", "models", "grid", "seeds", "flags"}
TASK_KEYS = {"train_path", "dev_path", "test_path"}
MODEL_KEYS = {"name", "pretrained_model_path", "config_path", "vocab_path", "published", "grid", "flags"}
CSV_COLUMNS = ("model", "source", "task", "score", "low", "high", "test", "grid", "seeds", "trials", "batch_size",
               "learning_rate", "epochs_num", "train_hash", "dev_hash", "test_hash", "vocab_hash", "pretrained_hash",
               "torch")
GRID_KEYS = {"batch_size_list", "learning_rate_list", "epochs_num_list"}


@dataclass(frozen=True)
class Entry:
    """One model on one task: the flags of its grid."""

    model: str
    task: str
    flags: dict[str, Any]
    published: str | None

    @property
    def place(self) -> str:
        """Where its files lie under the scoreboard's folder."""
        return re.sub(r"[^\w.-]+", "_", self.model) + f"/{self.task}"

    def argv(self) -> list[str]:
        """The command line of the grid."""
        return cli.words_of(self.flags, (FinetuneConfig, *SHARED_SECTIONS, ClassifierConfig, GridConfig))


@dataclass
class Cell:
    """What the best setting of a grid came to, in percent."""

    score: float
    low: float | None = None
    high: float | None = None
    best: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Row:
    """A line of the table; `cells` by task, `published` names the row that ours is held against."""

    name: str
    source: str
    cells: dict[str, Cell]
    published: str | None = None

    @property
    def score(self) -> float | None:
        """Mean of the row's tasks."""
        if self.source == "published" and set(self.cells) == set(TASKS):
            return PUBLISHED_SCORES[self.name]
        return sum(cell.score for cell in self.cells.values()) / len(self.cells) if self.cells else None


def read_list(path: str) -> list[Entry]:
    """The file that lists tasks and models.

        {"tasks": {"ocnli": {"train_path": "...", "dev_path": "..."}},
         "grid": {"batch_size_list": [32, 64], "learning_rate_list": [3e-5, 1e-4, 3e-4], "epochs_num_list": [3, 5, 8]},
         "seeds": [7], "flags": {"seq_length": 128},
         "models": [{"name": "tiny", "pretrained_model_path": "...", "config_path": "...", "vocab_path": "...",
                     "published": "Tiny 2/128"}]}

    `grid`, `seeds` and `flags` (any flag of the grid script) are optional; a model may have its own grid and flags.
    Without `pretrained_model_path` a model starts at random. Paths are as on the command line.

    Raises:
        UserError: a key is missing or unknown, or its value is of another kind; named with its place.
    """
    content = read_json(path)
    _check_keys(content, LIST_KEYS, {"tasks", "models"}, path)
    tasks, shared = member(content, "tasks", dict, path), {**_flags(content, path), "seeds": content.get("seeds")}
    entries = []
    for number, model in enumerate(member(content, "models", list, path), start=1):
        where = f"{path}: model {number}"
        _check_keys(model, MODEL_KEYS, {"name", "config_path", "vocab_path"}, where)
        name, published = member(model, "name", str, where), _optional(model, "published", str, where)
        if published is not None and published not in PUBLISHED:
            raise UserError(f"{where}: '{published}' is not published; choose from: {', '.join(PUBLISHED)}")
        own = {**_flags(model, where),
               **{key: model.get(key) for key in ("pretrained_model_path", "config_path", "vocab_path")}}
        for task, files in tasks.items():
            _check_keys(files, TASK_KEYS, {"train_path", "dev_path"}, f"{path}: task {task}")
            entries.append(Entry(name, task, {**shared, **own, **files}, published))
    places = [entry.place for entry in entries]
    if len(set(places)) < len(places):
        raise UserError(f"{path}: two models have the same name")
    return entries


def _check_keys(content: Any, known: set[str], required: set[str], where: str) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{where}: a JSON object is needed")
    for key in sorted(set(content) - known):
        raise UserError(f"{where}: unknown key '{key}'; known: {', '.join(sorted(known))}")
    for key in sorted(required - set(content)):
        raise UserError(f"{where}: the key '{key}' is missing")


def _flags(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The grid and the flags of a list or of one of its models."""
    grid = content.get("grid", {})
    _check_keys(grid, GRID_KEYS, set(), f"{where}: grid")
    return {**grid, **(_optional(content, "flags", dict, where) or {})}


def _optional(content: dict[str, Any], key: str, kind: type, where: str) -> Any:
    return None if content.get(key) is None else member(content, key, kind, where)


def best_cell(records: list[dict[str, Any]]) -> Cell | None:
    """The cell of a grid's finished trials: the best setting's median over its seeds; None if nothing is finished, or
    all diverged."""
    if not records:
        return None
    best = summarise(records)[0]
    if best["score"] is None:
        return None
    low = None if best["low"] is None else 100 * best["low"]  # a seed diverged
    return Cell(100 * best["score"], low, 100 * best["high"], best, records)


def make_rows(entries: list[Entry], cells: dict[tuple[str, str], Cell | None]) -> list[Row]:
    """Our row of every model, and under the last that names it each published one, of the tasks we have."""
    ours: list[Row] = []
    for model in dict.fromkeys(entry.model for entry in entries):
        mine = [entry for entry in entries if entry.model == model]
        found = {entry.task: cells[model, entry.task] for entry in mine if cells.get((model, entry.task))}
        ours.append(Row(model, "ours", found, mine[0].published))
    last = {row.published: number for number, row in enumerate(ours)}
    rows = []
    for number, row in enumerate(ours):
        rows.append(row)
        if row.published and last[row.published] == number:
            tasks = dict.fromkeys(task for other in ours if other.published == row.published for task in other.cells)
            rows.append(published_row(row.published, list(tasks)))
    return rows


def published_row(name: str, tasks: list[str]) -> Row:
    """The published figures of some tasks; those of the six that are asked for."""
    figures = dict(zip(TASKS, PUBLISHED[name]))
    return Row(name, "published", {task: Cell(figures[task]) for task in tasks if task in figures})


def architectures(entries: list[Entry]) -> list[str]:
    """A line for each model that is no BERT, the architecture of the published ones: `tiny: ModernBERT 2/128, ...`"""
    found = {}
    for entry in entries:
        config = model_settings(entry.flags["config_path"])
        assert config is not None  # the list has to name one
        if config.prediction_head != ModelConfig.prediction_head:
            found[entry.model] = described(config, len(Vocab.load(entry.flags["vocab_path"])))
    return [f"{model}: {words}." for model, words in found.items()]


def markdown(rows: list[Row], tasks: list[str], models: Sequence[str] = ()) -> str:
    """The table, and under it what each of our figures rests on.

    Args:
        models: lines of `architectures`.
    """
    lines = [f"| model | | score | {' | '.join(tasks)} |", f"|---|---|---:|{'---:|' * len(tasks)}"]
    for row in rows:
        score = "" if row.score is None else f"{row.score:.1f}{'' if len(row.cells) == len(tasks) else '*'}"
        cells = [_cell_text(row.cells.get(task)) for task in tasks]
        lines.append(f"| {row.name} | {row.source} | {score} | {' | '.join(cells)} |")
    lines += ["", "Accuracy on dev in percent, of the best setting of the grid (with several seeds their median, and "
              "the lowest to the highest). The score is the mean of the tasks shown, in published rows "
              "too; † marks a setting that came to predict one label only, * marks the mean of fewer.", "",
              *(["  \n".join(models), ""] if models else []), "## What the figures rest on", ""]
    titles = ("model", "task", "best setting", "grid", "seeds", "trials", "collapsed", "test", "train data", "dev data",
              "weights")
    lines += [f"| {' | '.join(titles)} |", "|---|---|---|---|---|---:|---:|---:|---|---|---|"]
    for row in rows:
        lines += [_trace_line(row.name, task, cell) for task, cell in row.cells.items() if cell.records]
    lines += ["", "Data and weights are given as the first 12 digits of their SHA-256. "
              f"Python {platform.python_version()}, torch {torch.__version__}."]
    return "\n".join(lines) + "\n"


def _cell_text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    low = "diverged" if cell.low is None else f"{cell.low:.1f}"
    spread = f" ({low}–{cell.high:.1f})" if cell.best.get("seeds", 1) > 1 else ""
    return f"{cell.score:.1f}{spread}{'†' if cell.best.get('collapsed') else ''}"


def _trace_line(model: str, task: str, cell: Cell) -> str:
    best, first = cell.best, cell.records[0]
    setting = f"batch {best['batch_size']}, rate {best['learning_rate']:g}, {amount(best['epochs_num'], 'epoch')}"
    test = "" if best["test"] is None else f"{100 * best['test']:.1f}"
    trials, collapsed = str(len(cell.records)), str(sum(record["collapsed"] for record in cell.records))
    hashes = (first[name][:12] for name in ("train_hash", "dev_hash", "pretrained_hash"))
    parts = (model, task, setting, grid_text(cell.records), _seeds(cell.records), trials, collapsed, test, *hashes)
    return f"| {' | '.join(parts)} |"


def grid_text(records: list[dict[str, Any]]) -> str:
    """`batch 32 64, rate 3e-05 0.0001, 3 5 epochs`"""
    batches, rates, epochs = (" ".join(f"{value:g}" for value in sorted({record[name] for record in records}))
                              for name in ("batch_size", "learning_rate", "epochs_num"))
    return f"batch {batches}, rate {rates}, {epochs} epoch{'s' * (epochs != '1')}"


def csv_text(rows: list[Row]) -> str:
    """One line a figure, with all that it can be traced by."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for task, cell in row.cells.items():
            first, test = cell.records[0] if cell.records else {}, cell.best.get("test")
            writer.writerow({
                **first, **cell.best, "model": row.name, "source": row.source, "task": task,
                "score": _two_decimals(cell.score), "low": _two_decimals(cell.low), "high": _two_decimals(cell.high),
                "test": _two_decimals(None if test is None else 100 * test),
                "grid": grid_text(cell.records) if cell.records else "", "seeds": _seeds(cell.records),
                "trials": len(cell.records) or ""})
    return out.getvalue()


def _seeds(records: list[dict[str, Any]]) -> str:
    return " ".join(str(seed) for seed in sorted({record["seed"] for record in records}))


def _two_decimals(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.2f}"
