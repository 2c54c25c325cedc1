"""What every task shares for inputs that are in memory (`uer.load(path).predict`): checks, and the predictions.

| task | one input |
|---|---|
| classifier, classifier_prompt, multi_label, regression | a text, or a pair (text, text) |
| siamese, simcse, dbqa | a pair (text, text) |
| classifier_mt | a text, or a pair (text, text) |
| ner | a text, or a list of words |
| cmrc | a pair (question, text) |
| c3 | a triple (text, question, choices) |
| chid | a pair (passages with #idiom...# blanks, candidates) |
| text2text | a text, or a pair (text, text) |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from uer.errors import UserError


@dataclass(frozen=True)
class Prediction:
    """Holds the prediction for one input.

    Attributes:
        label: the label (classifier, classifier_prompt, siamese, dbqa); a tuple of labels (multi_label; classifier_mt,
            one for each dataset); a number (regression, simcse); a tuple of tags, one for each word (ner); the text of
            the answer (cmrc, text2text); the choice (c3); a dict from blanks to candidates (chid).
        probabilities: of every label or choice; empty if the task computes none.
        words: the words that the tags of `label` belong to (ner).
    """

    label: Any
    probabilities: dict[str, float] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def require_text(item: Any, at: int, method: str = "predict") -> None:
    """
    Raises:
        UserError: an input is not a string, or holds half of a surrogate pair.
    """
    if not isinstance(item, str):
        raise UserError(f"{method}: input {at} must be a text, not {type(item).__name__}")
    if any("\ud800" <= char <= "\udfff" for char in item):
        raise UserError(f"{method}: input {at} holds half of a surrogate pair, which is not a character")


def text_pairs(inputs: Sequence[Any], task: str, form: str = "(text, text)") -> tuple[list[str], list[str]]:
    """The first and the second texts of inputs that must be pairs.

    Raises:
        UserError: an input is no pair of texts; named by its number.
    """
    for at, item in enumerate(inputs):
        if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != 2:
            raise UserError(f"predict: input {at} must be a pair {form} for the task '{task}'")
        for part in item:
            require_text(part, at)
    return [first for first, _ in inputs], [second for _, second in inputs]


def texts_or_pairs(inputs: Sequence[Any], task: str, pairs: bool | None = None) -> tuple[list[str], list[str] | None]:
    """The first texts, and the second ones, or None where the inputs are single texts.

    Args:
        pairs: whether the model is trained on pairs; None if unknown: the first input decides.

    Raises:
        UserError: an input is of the other kind.
    """
    paired = bool(inputs) and isinstance(inputs[0], Sequence) and not isinstance(inputs[0], str)
    if inputs and pairs is not None and pairs != paired:
        raise UserError("predict: the model is trained on pairs of texts; give (text, text)" if pairs else
                        "predict: the model is trained on single texts, not on pairs")
    if paired:
        return text_pairs(inputs, task)
    for at, item in enumerate(inputs):
        require_text(item, at)
    return list(inputs), None


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, (..., C) -> (..., C)."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def likeliest(logits: np.ndarray, names: Sequence[str]) -> Prediction:
    """The name with the highest of the logits (C,), and the softmax of all."""
    probabilities = softmax(logits.astype(np.float64)).tolist()
    return Prediction(names[int(logits.argmax())], dict(zip(names, probabilities)))
