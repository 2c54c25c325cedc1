"""Where the files of a fine-tuned model lie; needs no torch.

    finetuned_model.bin, finetuned_model.json, finetuned_model.vocab.txt

`path` may be the weights file or, where it ends with a slash or is a folder, a folder: then the files in it are called
model.bin, model.json and model.vocab.txt.
"""

import os
import re
from pathlib import Path

WEIGHTS_SUFFIXES = (".bin", ".pt", ".pth")


def weights_path(path: str | os.PathLike) -> Path:
    """Where the weights lie; for a folder, `model.bin` in it."""
    return Path(path) / "model.bin" if str(path).endswith("/") or Path(path).is_dir() else Path(path)


def settings_path(path: str | os.PathLike) -> Path:
    """The settings beside the weights."""
    return _beside(weights_path(path), ".json")


def vocab_path(path: str | os.PathLike) -> Path:
    """The vocabulary beside the weights."""
    return _beside(weights_path(path), ".vocab.txt")


def _beside(weights: Path, suffix: str) -> Path:
    """`tiny.bin` -> `tiny.json`, but `tiny_v1.5` -> `tiny_v1.5.json`"""
    name = weights.stem if weights.suffix in WEIGHTS_SUFFIXES else weights.name
    return weights.with_name(name + suffix)


def model_files(path: str | os.PathLike) -> list[Path]:
    """Weights, settings and vocabulary."""
    return [weights_path(path), settings_path(path), vocab_path(path)]


def state_path(weights: Path) -> Path:
    """Where the training state lies while a command runs."""
    return weights.with_name(f"{weights.name}.state")


def grid_results_path(path: str | os.PathLike) -> Path:
    """Where a grid writes its trials' lines unless it is told."""
    return settings_path(path).with_suffix(".grid.jsonl")


def fold_path(path: str | os.PathLike, fold: int) -> str:
    """The model of a fold: `model.bin` -> `model-fold_0.bin`."""
    weights = weights_path(path)
    return str(weights.with_name(f"{weights.stem}-fold_{fold}{weights.suffix}"))


def existing_folds(path: str | os.PathLike) -> list[int]:
    """The numbers of the folds whose models lie there."""
    weights = weights_path(path)
    name = re.compile(rf"{re.escape(weights.stem)}-fold_(\d+){re.escape(weights.suffix)}")
    return sorted(int(found[1]) for file in weights.parent.glob("*") if (found := name.fullmatch(file.name)))
