"""A task's outputs -> predictions that a person reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from uer.finetuning.batches import Examples
from uer.finetuning.task import Task
from uer.finetuning.tasks.c3 import MultipleChoiceTask
from uer.finetuning.tasks.classification import Classification, softmax
from uer.finetuning.tasks.cmrc import ReadingComprehension
from uer.finetuning.tasks.multi_label import MultiLabel, decide
from uer.finetuning.tasks.ner import Ner


@dataclass(frozen=True)
class Prediction:
    """What a model says of one input.

    Attributes:
        label: the label; of several labels a tuple; a number (regression, similarity); the tags of the words (ner); the
            answer's text (cmrc) or the choice (c3).
        probabilities: of every label or choice; empty where a task gives none.
        words: what `label` tags, one each (ner).
    """

    label: Any
    probabilities: dict[str, float] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def make_predictions(task: Task, outputs: list[np.ndarray], examples: Examples, inputs: Sequence[Any]
                     ) -> list[Prediction]:
    """One for each input, in order."""
    if isinstance(task, Ner):
        return [Prediction(tuple(tags), words=tuple(words))
                for tags, words in zip(task.tags(outputs, examples), examples.info["texts"])]
    if isinstance(task, ReadingComprehension):
        return [Prediction(answer) for answer in task.answers(outputs, examples)]
    if isinstance(task, MultipleChoiceTask):
        return [_choice(output[:len(choices)], choices) for output, (_, _, choices) in zip(outputs, inputs)]
    if isinstance(task, Classification):
        return [_choice(output, task.labels.names) for output in outputs]
    if isinstance(task, MultiLabel):
        return [Prediction(tuple(name for name, yes in zip(task.labels.names, decide(output)) if yes),
                           dict(zip(task.labels.names, _sigmoid(output)))) for output in outputs]
    return [Prediction(float(output[0])) for output in outputs]


def _choice(logits: np.ndarray, names: Sequence[str]) -> Prediction:
    probabilities = softmax(logits.astype(np.float64)).tolist()
    return Prediction(names[int(logits.argmax())], dict(zip(names, probabilities)))


def _sigmoid(logits: np.ndarray) -> list[float]:
    return (0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))).tolist()
