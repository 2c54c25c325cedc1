"""What scripts/run_lgb.py and scripts/run_lgb_cv_bayesopt.py share: features of models, and LightGBM. Not a command."""

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from uer.config import REQUIRED, flag
from uer.errors import UserError
from uer.finetuning.labels import LabelSet, train_labels
from uer.finetuning.readers import NO_LABEL, Table, read_table
from uer.paths import File
from uer.reading import require_regular

ROUNDS = "num_iterations"
"""LightGBM's name for the number of trees of each label."""


@dataclass(frozen=True)
class StackingFlags:
    """Training examples, and what the models answered for them."""

    train_path: str = flag(REQUIRED, "Training examples, as for finetune/run_classifier_cv.py.", path="read")
    train_features_path: str = flag(REQUIRED, "What the names of the features' files begin with: <this>train_features_"
                                              "<i>.npy for model i from 0 on; a folder ends with /.", path="read")
    models_num: int = flag(64, "Number of models.")
    labels_num: int | None = flag(None, "Number of labels; only checked, since the training examples tell it.")
    columns: tuple[str, ...] = flag((), "Names of the columns of files without a header.")
    seed: int = flag(7, "Seed of all draws.")

    def problems(self) -> list[str]:
        return [f"--{name} must be at least {least}" for name, least in (("models_num", 1), ("seed", 0))
                if getattr(self, name) < least]

    def reads(self) -> list[File]:
        """The features' files."""
        return [File("--train_features_path", path)
                for path in feature_files(self.train_features_path, "train", self.models_num)]


def feature_files(prefix: str, part: str, models_num: int) -> list[str]:
    """The files of all models: ["features/train_features_0.npy", ...] for "features/" or, if a folder, "features"."""
    start = os.path.join(prefix, "") if os.path.isdir(prefix) else prefix
    return [f"{start}{part}_features_{number}.npy" for number in range(models_num)]


def read_features(paths: list[str], table: Table) -> np.ndarray:
    """The features of all models side by side, (examples, sum of widths) float32.

    Args:
        paths: a .npy file of each model, (examples, width).
        table: the examples.

    Raises:
        UserError: a file is missing, is no such array, or has another number of rows than there are examples.
    """
    arrays = []
    for path in paths:
        require_regular(path, f"feature file {len(arrays) + 1} of --models_num {len(paths)}:")
        try:
            array = np.load(path, allow_pickle=False)
        except (ValueError, EOFError):
            raise UserError(f"{path}: not an array of numbers in numpy's .npy format") from None
        if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
            raise UserError(f"{path}: an array of numbers (examples, width) is needed")
        if len(array) != len(table):
            raise UserError(f"{path}: {len(array)} rows, but {table.path} has {len(table)} examples")
        arrays.append(array.astype(np.float32, copy=False))
    return np.concatenate(arrays, axis=1)


def read_training(flags: StackingFlags) -> tuple[LabelSet, np.ndarray, np.ndarray]:
    """The labels' names, the label number (N,) of each training example, and its features (N, F).

    Raises:
        UserError: the files do not fit one another, or there are more labels than --labels_num.
    """
    table = read_table(flags.train_path, ("label",), (), flags.columns)
    labels = train_labels(table)
    if flags.labels_num is not None and flags.labels_num < len(labels):
        raise UserError(f"--labels_num {flags.labels_num}: {flags.train_path} has {len(labels)} labels")
    paths = feature_files(flags.train_features_path, "train", flags.models_num)
    return labels, labels.numbers(table), read_features(paths, table)


def agreed_rows(table: Table) -> np.ndarray:
    """The numbers of the examples with a label, (n,): none where there is no such column, no label "-" among them."""
    return np.flatnonzero([label.strip() != NO_LABEL for label in table.get("label") or ()])


def open_library(name: str) -> ModuleType:
    """
    Raises:
        UserError: the package is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: the OpenMP library that LightGBM needs is not there
        raise UserError(f"this script needs the package {name} ({error}): pip install {name}") from None


def train(lightgbm: ModuleType, features: np.ndarray, numbers: np.ndarray, labels_num: int, seed: int,
          params: Mapping[str, Any]) -> Any:
    """A LightGBM model, whose `predict` gives the probabilities (n, labels_num) of features (n, F).

    Args:
        lightgbm: the package.
        features: (N, F) float32.
        numbers: (N,), the label of each row.
        params: LightGBM's parameters; `num_iterations` among them.

    Raises:
        UserError: LightGBM refuses a parameter.
    """
    settings = {"objective": "multiclass", "num_class": labels_num, "seed": seed, "verbosity": -1,
                "deterministic": True, "force_row_wise": True, **params}
    rounds = settings.pop(ROUNDS, 100)
    try:
        return lightgbm.train(settings, lightgbm.Dataset(features, numbers), num_boost_round=rounds)
    except (lightgbm.basic.LightGBMError, TypeError, ValueError) as error:
        raise UserError(f"LightGBM: {error}") from None


def scores_line(scores: Mapping[str, float]) -> str:
    """`accuracy 0.9000, macro F1 0.8990 (27 of 30 right)`"""
    return (f"accuracy {scores['accuracy']:.4f}, macro F1 {scores['macro_f1']:.4f} "
            f"({scores['correct']} of {scores['total']} right)")
