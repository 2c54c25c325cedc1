"""Keeps the best model of a grid and its records; until a trial is compared, its model has a name of its own."""

import glob
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uer.convert.hugging_face_files import write_json
from uer.errors import UserError
from uer.files import TEMPORARY_ENDING
from uer.finetuning.command import Command, append_lines
from uer.finetuning.config import GridConfig
from uer.finetuning.grid_plan import Plan
from uer.finetuning.paths import settings_path, vocab_path, weights_path
from uer.finetuning.saved_model import with_vocab
from uer.json_files import read_json_object
from uer.text import amount, duration, seconds_text

logger = logging.getLogger("uer.finetuning")

# What a trial's files are called after the model's name: its key, and perhaps the name of a file half written.
TRIAL_FILE = rf"\.[0-9a-f]{{16}}\.(bin|json|vocab\.txt)({TEMPORARY_ENDING})?$"


class Keeper:
    """Writes each trial's line as it finishes, and keeps the best trial's model.

    The best has the highest score; of equals it is the first in the grid's order (longest trainings first, then small
    batches, then low rates, then --seeds as given), whichever finishes first.
    """

    def __init__(self, command: Command, config: GridConfig, path: Path, plans: Sequence[Plan],
                 finished: dict[str, dict[str, Any]]) -> None:
        self.path, self.save_model, self.workers = path, config.save_model, 1
        self.output = command.finetune.output_model_path
        self.order = {plan.key: number for number, plan in enumerate(plans)}
        self.records = [finished[plan.key] for plan in plans if plan.key in finished]
        self._epochs_left = sum(plan.setting.epochs_num for plan in plans if plan.key not in finished)
        self._epochs_done, self._seconds = 0, 0.0

    def best(self) -> dict[str, Any] | None:
        """The best of the finished trials; None while none has a score."""
        scored = [record for record in self.records if record["score"] is not None]
        return min(scored, key=self._sort_key, default=None)

    def in_order(self) -> list[dict[str, Any]]:
        """All records in the grid's order."""
        return sorted(self.records, key=lambda record: self.order[record["key"]])

    def _sort_key(self, record: dict[str, Any]) -> tuple[float, int]:
        return -record["score"], self.order[record["key"]]

    def take(self, record: dict[str, Any]) -> None:
        """Record a finished trial: its model is moved before its line is written, so no line is without its model."""
        best = self.best()
        if self.save_model and not record["diverged"]:
            is_best = best is None or self._sort_key(record) < self._sort_key(best)
            move_model(trial_model(self.output, record["key"]), self.output if is_best else None)
        append_lines(str(self.path), [record])
        self.records.append(record)
        outcome = "DIVERGED (loss or weights not finite)" if record["diverged"] else (
            f"dev {record['score_name']} {record['score']:.4f}{', ONE LABEL ONLY' if record['collapsed'] else ''}")
        logger.info("Trial %d of %d: batch %d, rate %g, %s, seed %d: %s (%s), %s left", len(self.records),
                    len(self.order), record["batch_size"], record["learning_rate"],
                    amount(record["epochs_num"], "epoch"), record["seed"], outcome, seconds_text(record["seconds"]),
                    duration(self._seconds_left(record)))

    def _seconds_left(self, record: dict[str, Any]) -> float:
        """An estimate from the mean time of an epoch in the trials so far."""
        self._epochs_done += record["epochs_num"]
        self._seconds += record["seconds"]
        self._epochs_left -= record["epochs_num"]
        return self._epochs_left * self._seconds / self._epochs_done / self.workers


def trial_model(output: str, key: str) -> Path:
    """Where a trial's model is until the keeper has decided: beside the best model's, so that it can be renamed."""
    return settings_path(output).with_suffix(f".{key}.bin")


def move_model(source: Path, destination: str | None) -> None:
    """Move the three files of a saved model to `destination`, or remove them; the settings name the vocabulary."""
    names = [source, settings_path(source), vocab_path(source)]
    if destination is None:
        for name in names:
            name.unlink()
        return
    final = weights_path(destination)
    final.parent.mkdir(parents=True, exist_ok=True)
    write_json(with_vocab(read_json_object(names[1]), destination), names[1])
    os.replace(names[2], vocab_path(destination))
    os.replace(names[1], settings_path(destination))
    os.replace(names[0], final)


def kept_trial(output: str) -> str | None:
    """The key of the trial whose model is at `output`; None where there is none, or not all of its files."""
    if not weights_path(output).exists() or not vocab_path(output).exists():
        return None
    try:
        return read_json_object(settings_path(output))["training"]["trial"]
    except (UserError, KeyError, TypeError):
        return None


def clear_away(path: Path, output: str | None) -> None:
    """Remove what a stopped grid leaves behind: the incomplete last line of the results file `path`, and the models of
    unfinished trials beside `output`; None where this grid saves no model."""
    if path.exists():
        unfinished = path.read_bytes().rpartition(b"\n")[2]
        os.truncate(path, path.stat().st_size - len(unfinished))
    if output is None:
        return
    settings = settings_path(output)
    for file in settings.parent.glob(f"{glob.escape(settings.stem)}.*"):
        if re.match(TRIAL_FILE, file.name.removeprefix(settings.stem)):
            file.unlink()
