"""Figures against scikit-learn, and by hand where it has none."""

import numpy as np
import pytest

from uer.finetuning.metrics import (
    classification,
    confusion_matrix,
    correlations,
    entities,
    entity_scores,
    label_scores,
)


def test_classification_equals_scikit_learn():
    from sklearn import metrics as reference  # only the process that runs this test waits for it

    generator = np.random.default_rng(0)
    gold, predicted = generator.integers(0, 5, 137), generator.integers(0, 4, 137)
    scores = classification(predicted, gold, 7)
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(gold, predicted))
    assert scores["macro_f1"] == pytest.approx(reference.f1_score(gold, predicted, average="macro", zero_division=0))
    assert scores["predicted_labels"] == 4
    matrix = confusion_matrix(predicted, gold, 7)
    np.testing.assert_array_equal(matrix.T, reference.confusion_matrix(gold, predicted, labels=range(7)))
    expected = reference.precision_recall_fscore_support(gold, predicted, labels=range(7), zero_division=0)
    np.testing.assert_allclose(label_scores(matrix).T, expected[:3])


def test_correlations_with_ties():
    gold, predicted = np.array([1.0, 2, 2, 4, 7, 7]), np.array([0.1, 0.4, 0.2, 0.4, 0.9, 0.3])
    scores = correlations(predicted, gold)
    assert scores["pearson"] == pytest.approx(np.corrcoef(gold, predicted)[0, 1])
    ranks = [np.array([0, 1.5, 1.5, 3, 4.5, 4.5]), np.array([0, 3.5, 1, 3.5, 5, 2])]
    assert scores["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert correlations(np.ones(3), np.arange(3.0))["pearson"] == 0.0


def test_entities():
    assert entities(["I-PER", "I-LOC", "B-LOC", "I-LOC", "O", "I-LOC"]) == {
        (0, 0, "PER"), (1, 1, "LOC"), (2, 3, "LOC"), (5, 5, "LOC")}
    gold = [["B-PER", "I-PER", "O"], ["B-LOC", "O", "O"]]
    scores = entity_scores([["B-PER", "O", "O"], ["B-LOC", "O", "B-LOC"]], gold)
    assert scores == {"precision": 1 / 3, "recall": 1 / 2, "f1": pytest.approx(0.4)}
    assert entity_scores([["O"]], [["O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
