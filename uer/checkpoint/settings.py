"""The settings file beside a checkpoint: how its weights were trained, in a few kilobytes of JSON.

    model.bin-1000                   the weights
    model.bin-1000.settings.json     {"format": ..., "version": 1, "step": 1000, "settings": {"hidden_size": 768, ...}}

Conversion and the scripts that open a model read it instead of the training state, which is 400,000 times as large and
is removed when there are newer ones. The name is not `model.bin-1000.json`, since that of a fine-tuned model is.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uer.errors import UserError
from uer.files import atomic_path
from uer.json_files import json_text, read_json_object

FORMAT = "uer-pretrained"
VERSION = 1
ENDING = ".settings.json"


def settings_path(weights: str | os.PathLike) -> Path:
    """Where the settings of a checkpoint are.

    >>> settings_path("models/model.bin-1000").as_posix()
    'models/model.bin-1000.settings.json'
    """
    return Path(f"{Path(weights)}{ENDING}")


def write_settings(weights: str | os.PathLike, step: int, settings: Mapping[str, Any]) -> None:
    """Write the settings file of a checkpoint, whole or not at all.

    Args:
        weights: the checkpoint's path.
        step: how many updates it had.
        settings: the settings of the run, by UER's flag names; plain JSON.

    Raises:
        OSError: it cannot be written.
    """
    content = {"format": FORMAT, "version": VERSION, "step": step, "settings": dict(settings)}
    with atomic_path(settings_path(weights)) as temporary:
        temporary.write_text(json_text(content, indent=2) + "\n", encoding="utf-8")


def read_settings(weights: str | os.PathLike) -> dict[str, Any] | None:
    """What `write_settings` wrote beside a checkpoint: {"step": ..., "settings": {...}, ...}; None where there is no
    such file, or one of somebody else.

    Raises:
        UserError: the file is damaged, or a later version of this program wrote it.
    """
    path = settings_path(weights)
    if not path.is_file():
        return None
    content = read_json_object(path)
    if content.get("format") != FORMAT:
        return None
    if content.get("version") != VERSION:
        raise UserError(f"{path}: version {content.get('version')}; this program reads version {VERSION}")
    if type(content.get("step")) is not int or not isinstance(content.get("settings"), dict):
        raise UserError(f"{path}: damaged settings: no step, or no settings")
    return content
