"""Metrics of an evaluation, in numpy, computed from the predictions of a whole file, never averaged over batches."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np


def confusion_matrix(predicted: np.ndarray, gold: np.ndarray, labels_num: int) -> np.ndarray:
    """`matrix[p, g]` is the number of examples with prediction p and correct label g.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]

    Args:
        predicted, gold: (N,) int64.

    Returns:
        (labels_num, labels_num) int64.
    """
    return np.bincount(predicted * labels_num + gold, minlength=labels_num**2).reshape(labels_num, labels_num)


def label_scores(matrix: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 of every label from a confusion matrix (C, C), as (C, 3); 0 where a denominator is 0.

    >>> label_scores(np.array([[3, 1], [0, 4]])).round(3).tolist()
    [[0.75, 1.0, 0.857], [1.0, 0.8, 0.889]]
    """
    hits = np.diag(matrix).astype(float)
    precision = _ratio(hits, matrix.sum(axis=1))
    recall = _ratio(hits, matrix.sum(axis=0))
    return np.stack([precision, recall, _ratio(2 * precision * recall, precision + recall)], axis=1)


def classification(predicted: np.ndarray, gold: np.ndarray, labels_num: int) -> dict[str, float]:
    """Accuracy, and macro F1: the mean over the labels that occur in the examples or the predictions.

    Args:
        predicted, gold: (N,) int64.
    """
    matrix = confusion_matrix(predicted, gold, labels_num)
    present = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    return {"accuracy": float(np.trace(matrix) / max(1, matrix.sum())),
            "macro_f1": float(label_scores(matrix)[present, 2].mean()) if present.any() else 0.0,
            "correct": int(np.trace(matrix)), "total": int(matrix.sum()),
            "predicted_labels": int((matrix.sum(axis=1) > 0).sum())}


def f1_of_counts(correct: int, predicted: int, gold: int) -> dict[str, float]:
    """Precision, recall and F1 from the numbers of correct, predicted and gold items."""
    precision = correct / predicted if predicted else 0.0
    recall = correct / gold if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


# The prefixes of each label scheme, and what they mean: Begin, Inside, End or Single word of an entity.
SCHEMES = {
    "BIO": {"B": "B", "I": "I"},
    "BIOES": {"B": "B", "I": "I", "E": "E", "S": "S"},
    "BMES": {"B": "B", "M": "I", "E": "E", "S": "S"},
    "BILOU": {"B": "B", "I": "I", "L": "E", "U": "S"},
}
NO_SCHEME = "none"
OUTSIDE = "O"


def split_tag(tag: str) -> tuple[str, str]:
    """Split a tag into its prefix and its entity type; the prefix is "" if the tag has none.

    >>> [split_tag(tag) for tag in ("B-PER", "S", "NN")]
    [('B', 'PER'), ('S', ''), ('', 'NN')]
    """
    if len(tag) == 1 and tag.isupper():
        return tag, ""
    return (tag[0], tag[2:]) if tag[0].isupper() and tag[1:2] == "-" else ("", tag)


def fitting_schemes(tags: Iterable[str]) -> list[str]:
    """The schemes that have the prefixes of all tags; none if a tag other than O has no prefix.

    >>> fitting_schemes(["B-PER", "I-PER", "O"])
    ['BIO', 'BIOES', 'BILOU']
    """
    prefixes = {split_tag(tag)[0] for tag in tags if tag != OUTSIDE}
    return [name for name, roles in SCHEMES.items() if prefixes <= roles.keys()]


def entities(tags: Sequence[str], scheme: str = "BIO") -> set[tuple[int, int, str]]:
    """The entities (first word, last word, type) of a row of tags.

    They are read as by conlleval and seqeval's default mode: an entity begins at B and S, and at any I or E that does
    not continue an entity of its type; it ends at E and S, and before a tag that does not continue it. With NO_SCHEME,
    every word with a tag other than O is an entity.

    >>> sorted(entities(["B-PER", "I-PER", "O", "B-LOC"]))
    [(0, 1, 'PER'), (3, 3, 'LOC')]
    """
    if scheme == NO_SCHEME:
        return {(position, position, tag) for position, tag in enumerate(tags) if tag != OUTSIDE}
    found, start, open_kind = set(), 0, None
    for position, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = split_tag(tag)
        role = SCHEMES[scheme].get(prefix, OUTSIDE)
        if open_kind is not None and (role in ("O", "B", "S") or kind != open_kind):
            found.add((start, position - 1, open_kind))
            open_kind = None
        if role != OUTSIDE and open_kind is None:
            start, open_kind = position, kind
        if role in ("E", "S"):
            found.add((start, position, open_kind))
            open_kind = None
    return found


def entity_scores(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]],
                  scheme: str = "BIO") -> dict[str, float]:
    """Precision, recall and F1 of whole entities: first word, last word and type must be correct.

    Args:
        predicted, gold: the tags of each row.
    """
    counts = Counter(correct=0, predicted=0, gold=0)
    for ours, theirs in zip(predicted, gold):
        found, wanted = entities(ours, scheme), entities(theirs, scheme)
        counts.update(correct=len(found & wanted), predicted=len(found), gold=len(wanted))
    return f1_of_counts(**counts)


def correlations(predicted: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    """Pearson's and Spearman's correlation and the mean squared error; the correlation with a constant is 0.

    Args:
        predicted, gold: (N,) float64.
    """
    return {"spearman": _pearson(_ranks(predicted), _ranks(gold)), "pearson": _pearson(predicted, gold),
            "mse": float(np.mean((predicted - gold) ** 2))}


def _ranks(values: np.ndarray) -> np.ndarray:
    """(N,) ranks from 0; equal values get the mean of their ranks: [5, 7, 5] -> [0.5, 2, 0.5]."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse.reshape(-1)]


def _pearson(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum() / scale) if scale > 0 else 0.0


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
