"""The results of a grid's trials: the lines of its results file, and a table of them."""

import math
from pathlib import Path
from statistics import median
from typing import Any

from uer.errors import UserError
from uer.json_files import parse_json


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Finished trials by key; a last line that is not finished, or was cut short by a kill, does not count.

    Raises:
        UserError: a line that is no trial's.
    """
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")
    found = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = parse_json(line, path, number)
            found[record["key"]] = record
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}:{number}: not the line of a trial; is this a grid's results file?") from None
    return found


def require_a_score(records: list[dict[str, Any]]) -> None:
    """
    Raises:
        UserError: every trial diverged, so that there is no model.
    """
    if all(record["score"] is None for record in records):
        raise UserError("every trial of the grid diverged, so no model is written; lower rates in --learning_rate_list "
                        "may help")


def table(records: list[dict[str, Any]]) -> list[str]:
    """Lines of a table: one row a setting, the best first; with several seeds their median and spread."""
    rows = summarise(records)
    name = records[0]["score_name"]
    lines = [f"| batch | rate | epochs | dev {name} | spread | test {name} | |", "|---:|---:|---:|---:|---|---:|---|"]
    for number, row in enumerate(rows):
        score, low, high, test = (number_text(row[key]) for key in ("score", "low", "high", "test"))
        spread = f"{low} to {high}" if row["seeds"] > 1 else ""
        notes = ["best"] * (number == 0 and row["score"] is not None) + ["collapsed to one label"] * row["collapsed"]
        notes += [f"{row['diverged']} of {row['seeds']} diverged"] * (row["diverged"] > 0)
        lines.append(f"| {row['batch_size']} | {row['learning_rate']:g} | {row['epochs_num']} | {score} | "
                     f"{spread} | {test if row['test'] is not None else ''} | {', '.join(notes)} |")
    return lines


def number_text(value: float | None) -> str:
    """Four decimals; a dash for a training that diverged."""
    return "-" if value is None else f"{value:.4f}"


def summarise(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a setting, over its seeds: median score, lowest and highest, median test figure; the best first.

    Of equals the longer training comes first, then the smaller batch, then the smaller rate. A trial that diverged
    counts as lower than any other; a score that it decides is None.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["batch_size"], record["learning_rate"], record["epochs_num"]), []).append(record)
    rows = []
    for (batch, rate, epochs), group in groups.items():
        scores = [-math.inf if record["score"] is None else record["score"] for record in group]
        tests = [record["test"][record["score_name"]] for record in group if record["test"]]
        score, low, high = (value if math.isfinite(value) else None for value in (median(scores), min(scores),
                                                                                  max(scores)))
        rows.append({"batch_size": batch, "learning_rate": rate, "epochs_num": epochs, "seeds": len(group),
                     "score": score, "low": low, "high": high, "test": median(tests) if tests else None,
                     "collapsed": any(record["collapsed"] for record in group),
                     "diverged": sum(record.get("diverged", False) for record in group)})
    return sorted(rows, key=_sort_key)


def _sort_key(row: dict[str, Any]) -> tuple[float, int, int, float]:
    score = -math.inf if row["score"] is None else row["score"]
    return -score, -row["epochs_num"], row["batch_size"], row["learning_rate"]
