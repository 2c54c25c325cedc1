"""Look for LightGBM's parameters for scripts/run_lgb.py by Bayesian optimization, with optuna.

Each of --epochs_num settings is judged by cross-validation over the training examples: by the macro F1 of the labels
that models predict for the examples that they did not see. --params_path gets the best setting.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from _stacking import ROUNDS, StackingFlags, open_library, read_training, scores_line, train

from uer import cli
from uer.config import flag
from uer.errors import UserError
from uer.files import atomic_path
from uer.finetuning.metrics import classification


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    folds_num: int = flag(5, "Parts of the training examples, each of which is held out once.")
    epochs_num: int = flag(100, "Settings that are tried.")
    params_path: str | None = flag(None, "Where the best setting is written, for scripts/run_lgb.py (JSON).",
                                   path="write")

    def problems(self) -> list[str]:
        return [f"--{name} must be at least {least}" for name, least in (("folds_num", 2), ("epochs_num", 1))
                if getattr(self, name) < least]


def main() -> None:
    flags, stacking = cli.parse(__doc__, (Flags, StackingFlags))
    labels, numbers, features = read_training(stacking)
    if len(numbers) < flags.folds_num:
        raise UserError(f"{stacking.train_path}: {len(numbers)} examples for --folds_num {flags.folds_num}")
    lightgbm, optuna = open_library("lightgbm"), open_library("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=stacking.seed))
    folds = even_folds(numbers, flags.folds_num, stacking.seed)
    best: dict[str, Any] = {}
    for number in range(1, flags.epochs_num + 1):
        trial = study.ask()
        params = suggested(trial)
        predicted = held_out_labels(lightgbm, features, numbers, folds, len(labels), stacking.seed, params)
        scores = classification(predicted, numbers, len(labels))
        study.tell(trial, scores["macro_f1"])
        if study.best_trial.number == trial.number:
            best = params
            print(f"setting {number} of {flags.epochs_num}: {scores_line(scores)}", flush=True)
    print(json.dumps(best))
    if flags.params_path:
        with atomic_path(flags.params_path) as temporary:
            temporary.write_text(json.dumps(best, indent=1) + "\n", encoding="utf-8")


def suggested(trial: Any) -> dict[str, Any]:
    """The parameters of an optuna trial, under LightGBM's names."""
    return {
        ROUNDS: trial.suggest_int(ROUNDS, 10, 300, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.3, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 2, 64, log=True),
        "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 5, 100, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 1.0),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
        "bagging_freq": 1,
        "lambda_l1": trial.suggest_float("lambda_l1", 1e-3, 10.0, log=True),
        "lambda_l2": trial.suggest_float("lambda_l2", 1e-3, 10.0, log=True),
    }


def even_folds(numbers: np.ndarray, folds_num: int, seed: int) -> np.ndarray:
    """The fold of every example: each fold has the same number (to one) of examples, and of examples of each label.

    With labels [0, 0, 1, 1] and 2 folds, each fold has one example of either label, such as [1, 0, 0, 1].

    Args:
        numbers: (N,), the label of each example.

    Returns:
        (N,) int64.
    """
    order = np.random.default_rng(seed).permutation(len(numbers))
    order = order[np.argsort(numbers[order], kind="stable")]  # examples of one label are neighbours
    folds = np.empty(len(numbers), np.int64)
    folds[order] = np.arange(len(numbers)) % folds_num
    return folds


def held_out_labels(lightgbm: ModuleType, features: np.ndarray, numbers: np.ndarray, folds: np.ndarray,
                    labels_num: int, seed: int, params: dict[str, Any]) -> np.ndarray:
    """The label (N,) that is predicted for each example by the model of the other folds.

    Args:
        features: (N, F).
        numbers, folds: (N,), label and fold of each example.
    """
    predicted = np.empty_like(numbers)
    for fold in range(folds.max() + 1):
        held_out = folds == fold
        model = train(lightgbm, features[~held_out], numbers[~held_out], labels_num, seed, params)
        predicted[held_out] = model.predict(features[held_out]).argmax(-1)
    return predicted


if __name__ == "__main__":
    cli.run(main)
