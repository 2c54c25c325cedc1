"""Stack classifiers: LightGBM learns a label from the logits of many models, and answers for the test examples.

    finetune/run_classifier_cv.py --train_features_path features/train_features_0.npy ...
    inference/run_classifier_cv_infer.py --test_features_path features/test_features_0.npy ...
    scripts/run_lgb.py --train_features_path features/ --test_features_path features/ --models_num 1 ...

make the features of model 0 and use them. scripts/run_lgb_cv_bayesopt.py looks for good --params_path.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from _stacking import (
    StackingFlags,
    agreed_rows,
    feature_files,
    open_library,
    read_features,
    read_training,
    scores_line,
    train,
)

from uer import cli
from uer.config import REQUIRED, flag
from uer.errors import UserError
from uer.files import atomic_path
from uer.finetuning.labels import LabelSet
from uer.finetuning.metrics import classification
from uer.finetuning.readers import Table, read_table
from uer.json_files import read_json_object


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    test_path: str = flag(REQUIRED, "Test examples.", path="read")
    test_features_path: str = flag(REQUIRED, "As --train_features_path, for <this>test_features_<i>.npy.", path="read")
    prediction_path: str | None = flag(None, "Where the labels of the test examples are written (TSV).", path="write")
    params_path: str | None = flag(None, "JSON object of LightGBM's parameters (default: LightGBM's, 100 iterations).",
                                   path="read")


def main() -> None:
    flags, stacking = cli.parse(__doc__, (Flags, StackingFlags))
    labels, numbers, features = read_training(stacking)
    table = read_table(flags.test_path, (), ("label", "text_a"), stacking.columns)
    judged = agreed_rows(table)
    gold = labels.numbers(chosen(table, judged)) if len(judged) else None
    if gold is None and flags.prediction_path is None:
        raise UserError(f"{flags.test_path}: has no labels to compare with; --prediction_path writes predicted ones")
    test = read_features(feature_files(flags.test_features_path, "test", stacking.models_num), table)
    if test.shape[1] != features.shape[1]:
        raise UserError(f"--test_features_path {flags.test_features_path}: {test.shape[1]} features an example, but "
                        f"{features.shape[1]} in training")
    params = read_json_object(Path(flags.params_path)) if flags.params_path else {}
    model = train(open_library("lightgbm"), features, numbers, len(labels), stacking.seed, params)
    predicted = model.predict(test).argmax(-1)  # (n,)
    if flags.prediction_path:
        write_labels(flags.prediction_path, labels, predicted)
        print(f"written: {flags.prediction_path}: {len(predicted)} labels")
    if gold is not None:
        print(scores_line(classification(predicted[judged], gold, len(labels))))


def chosen(table: Table, rows: np.ndarray) -> Table:
    """Some rows of a table, their labels alone."""
    return Table(table.path, [table.lines[row] for row in rows], {"label": [table["label"][row] for row in rows]})


def write_labels(path: str, labels: LabelSet, predicted: np.ndarray) -> None:
    """A TSV with the header `label`, as inference/run_classifier_infer.py writes."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in ["label", *labels.numbers_to_names(predicted)]),
                             encoding="utf-8", newline="\n")


if __name__ == "__main__":
    cli.run(main)
