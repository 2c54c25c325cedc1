"""Writes the metrics of a run: JSON lines (`--metrics_path`), TensorBoard, Weights & Biases."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from uer.config import LogConfig
from uer.errors import UserError
from uer.files import prepare_file

LINE_START = b'{"kind": '
LONGEST_LINE = 1 << 16


class MetricsWriter:
    """Writes metrics to those of JSON lines, TensorBoard and Weights & Biases that the settings name.

    Raises:
        UserError: a file cannot be written, or a package is missing.
    """

    def __init__(self, config: LogConfig) -> None:
        self._path = config.metrics_path
        self._board = _open_board(config.tensorboard_dir)
        self._wandb = _open_wandb(config.wandb_project)
        self._file = _open_metrics(self._path)

    def write(self, kind: str, step: int, metrics: Mapping[str, Any], facts: Mapping[str, Any], tag: str = "") -> None:
        """One record. JSON has no word for numbers that are not finite: they become null.

        Args:
            kind: "train", "eval" or "test".
            facts: further entries of the JSON line, which TensorBoard does not get.
            tag: put before the scalars' names, where a command trains several models.
        """
        if self._file is not None:
            line = json.dumps(_strict({"kind": kind, "step": step, **facts, **metrics}), ensure_ascii=False) + "\n"
            try:
                _write(self._file, line.encode())
            except OSError as error:
                raise UserError(f"--metrics_path {self._path}: {error.strerror}") from None
        scalars = {f"{tag}{kind}/{name}": value for name, value in metrics.items() if isinstance(value, (int, float))}
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({**scalars, f"{tag}step": step})

    def close(self) -> None:
        """Flush everything."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _strict(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()}


def _open_metrics(path: str | None) -> Any:
    if path is None:
        return None
    prepare_file(path, "--metrics_path")
    if os.path.isfile(path):
        _drop_half_line(path)
    return open(path, "ab", buffering=0)  # a line is one write: a kill leaves no half of one in a buffer


def _drop_half_line(path: str) -> None:
    """Remove a last line that a full disk has cut off: the next record would be appended to it."""
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LONGEST_LINE))
        half = file.read().rpartition(b"\n")[2]
        if half[:len(LINE_START)] == LINE_START[:len(half)]:  # a line of ours, not the end of another file
            file.truncate(size - len(half))


def _write(file: Any, line: bytes) -> None:
    """Write all of a line: a disk that becomes full takes a part of it without an error."""
    while line:
        line = line[file.write(line):]


def _open_board(folder: str | None) -> Any:
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter  # an optional dependency
    except ImportError:
        raise UserError("--tensorboard_dir needs the package tensorboard: pip install tensorboard") from None
    return SummaryWriter(folder)


def _open_wandb(project: str | None) -> Any:
    if project is None:
        return None
    try:
        import wandb  # an optional dependency
    except ImportError:
        raise UserError("--wandb_project needs the package wandb: pip install wandb") from None
    return wandb.init(project=project)
