"""Figures of an evaluation, in numpy, from whole predictions: nothing here is averaged over batches."""

from collections import Counter
from collections.abc import Sequence

import numpy as np


def confusion_matrix(predicted: np.ndarray, gold: np.ndarray, labels_num: int) -> np.ndarray:
    """`matrix[p, g]` counts the examples predicted as p whose label is g (rows are predictions)."""
    return np.bincount(predicted * labels_num + gold, minlength=labels_num**2).reshape(labels_num, labels_num)


def label_scores(matrix: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 of every label, (labels, 3); 0 where a denominator is 0.

    >>> label_scores(np.array([[3, 1], [0, 4]])).round(3).tolist()
    [[0.75, 1.0, 0.857], [1.0, 0.8, 0.889]]
    """
    hits = np.diag(matrix).astype(float)
    precision = _ratio(hits, matrix.sum(axis=1))
    recall = _ratio(hits, matrix.sum(axis=0))
    return np.stack([precision, recall, _ratio(2 * precision * recall, precision + recall)], axis=1)


def classification(predicted: np.ndarray, gold: np.ndarray, labels_num: int) -> dict[str, float]:
    """Accuracy, and the mean F1 over the labels that occur in the examples or the predictions."""
    matrix = confusion_matrix(predicted, gold, labels_num)
    present = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    return {"accuracy": float(np.trace(matrix) / max(1, matrix.sum())),
            "macro_f1": float(label_scores(matrix)[present, 2].mean()) if present.any() else 0.0,
            "correct": int(np.trace(matrix)), "total": int(matrix.sum()),
            "predicted_labels": int((matrix.sum(axis=1) > 0).sum())}


def f1_of_counts(correct: int, predicted: int, gold: int) -> dict[str, float]:
    """Precision, recall and F1 from counts of things found."""
    precision = correct / predicted if predicted else 0.0
    recall = correct / gold if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """The entities (first, last, kind) of a row of BIO tags. An I that continues nothing begins an entity of its own.

    >>> sorted(entities(["B-PER", "I-PER", "O", "B-LOC"]))
    [(0, 1, 'PER'), (3, 3, 'LOC')]
    """
    found, start, kind = set(), 0, ""
    for position, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind and (prefix != "I" or name != kind):
            found.add((start, position - 1, kind))
            kind = ""
        if prefix in ("B", "I") and not kind:
            start, kind = position, name
    return found


def entity_scores(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of whole entities."""
    counts = Counter(correct=0, predicted=0, gold=0)
    for ours, theirs in zip(predicted, gold):
        found, wanted = entities(ours), entities(theirs)
        counts.update(correct=len(found & wanted), predicted=len(found), gold=len(wanted))
    return f1_of_counts(**counts)


def correlations(predicted: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    """Pearson's and Spearman's correlation and the mean squared error; a constant correlates with nothing (0)."""
    return {"spearman": _pearson(_ranks(predicted), _ranks(gold)), "pearson": _pearson(predicted, gold),
            "mse": float(np.mean((predicted - gold) ** 2))}


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse.reshape(-1)]


def _pearson(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum() / scale) if scale > 0 else 0.0


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
