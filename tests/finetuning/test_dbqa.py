"""Answer selection: groups of rows, and the mean reciprocal rank."""

import json

import numpy as np
import pytest

from uer.errors import UserError
from uer.finetuning.tasks.dbqa import Dbqa, group_starts, mean_reciprocal_rank


def mrr(*questions: list[tuple[int, float]]) -> float:
    scores = [np.array([score for _, score in rows]) for rows in questions]
    return mean_reciprocal_rank(scores, [np.array([label == 1 for label, _ in rows]) for rows in questions])


def test_the_mean_reciprocal_rank_by_hand():
    assert mrr([(0, 0.9), (1, 0.5), (0, 0.1)], [(1, 0.7)]) == 0.75
    assert mrr([(0, 0.9), (0, 0.1)]) == pytest.approx(1 / 3), "none of two is correct"
    assert mrr([(1, 0.5), (0, 0.5)]) == 1.0 and mrr([(0, 0.5), (1, 0.5)]) == 0.5, "equal scores keep the file's order"


def test_the_mean_reciprocal_rank_of_the_original(golden):
    """It agrees wherever a correct and a wrong candidate do not have the same score."""
    cases = json.loads((golden / "breadth/tasks/tasks.json").read_text("utf-8"))["dbqa"]
    for name, case in cases.items():
        if name != "tie":
            assert mrr(*case["groups_of_label_and_score"]) == pytest.approx(case["mrr"]), name


def test_neighbours_of_one_qid_are_a_group():
    assert group_starts(["7", "7", "9", "7"]).tolist() == [0, 2, 3]


def test_other_labels_are_refused(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("qid\tlabel\ttext_a\ttext_b\n1\t1\ta\tb\n1\t2\ta\tb\n", "utf-8")
    with pytest.raises(UserError, match="the labels must be 0 and 1, not 1, 2"):
        Dbqa.of_training_file(str(path), Dbqa.config_class())
