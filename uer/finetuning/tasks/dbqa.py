"""Answer selection (NLPCC-DBQA): which of a question's candidate sentences answer it.

The file is a TSV with the columns `qid`, `label` (1 for a correct answer, else 0), `text_a` (the question) and `text_b`
(a candidate). Neighbouring rows with the same qid are the candidates of one question. A classifier labels each row, and
its logit of label 1 ranks the candidates.
"""

import numpy as np

from uer.errors import UserError
from uer.finetuning.batches import Examples
from uer.finetuning.config import ClassifierConfig
from uer.finetuning.labels import shorten
from uer.finetuning.readers import Table
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import Classification


class Dbqa(Classification):
    """Ranks the candidates of a question by the logit of label 1."""

    name = "dbqa"
    metric_names = ("mrr", "accuracy")
    evaluated_columns = ("text_b", "qid")

    @classmethod
    def of_training_file(cls, path: str, config: ClassifierConfig, columns: tuple[str, ...] = ()) -> "Dbqa":
        task = super().of_training_file(path, config, columns)
        if task.labels.names != ("0", "1"):
            raise UserError(f"{path}: the labels must be 0 and 1, not {shorten(task.labels.names)}")
        return task

    def of_table(self, table: Table, encoder: TextToRows, labelled: bool) -> Examples:
        examples = super().of_table(table, encoder, labelled)
        if labelled:
            examples.info["groups"] = group_starts(table["qid"])
        return examples

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        """The mean reciprocal rank over questions, and the classifier's metrics over rows."""
        scores, right = np.stack(outputs)[:, 1], examples.targets["label"] == 1
        groups = examples.info["groups"][1:]
        return {"mrr": mean_reciprocal_rank(np.split(scores, groups), np.split(right, groups)),
                **super().metrics(outputs, examples)}


def group_starts(qids: list[str]) -> np.ndarray:
    """The rows where another qid begins, int64.

    >>> group_starts(["7", "7", "9", "7"]).tolist()
    [0, 2, 3]
    """
    names = np.array(["", *qids], dtype=object)
    return np.flatnonzero((names[1:] != names[:-1]) | (np.arange(len(qids)) == 0))


def mean_reciprocal_rank(scores: list[np.ndarray], right: list[np.ndarray]) -> float:
    """The mean over questions of 1 / the rank of the best correct candidate; 1 / (n + 1) where none of n is correct.

    Of equal scores the earlier row has the better rank. (UER-py counts a question twice where they are equal.)

    >>> mean_reciprocal_rank([np.array([0.9, 0.5, 0.1])], [np.array([False, True, False])])
    0.5

    Args:
        scores, right: for each question (n,), the candidates' scores and whether they are correct.
    """
    ranks = []
    for own, correct in zip(scores, right):
        found = np.flatnonzero(correct[np.argsort(-own, kind="stable")])
        ranks.append(1 + (found[0] if len(found) else len(own)))
    return float(np.mean(1.0 / np.array(ranks)))
