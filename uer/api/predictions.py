"""Converts the outputs of a fine-tuned model to predictions with label names, answers or choices."""

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
    """Holds the prediction for one input.

    Attributes:
        label: the label (classifier, siamese); a tuple of labels (multi_label); a number (regression, simcse); a tuple
            of tags, one for each word (ner); the text of the answer (cmrc); the choice (c3).
        probabilities: of every label or choice; empty if the task computes none.
        words: the words that the tags of `label` belong to (ner).
    """

    label: Any
    probabilities: dict[str, float] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def make_predictions(task: Task, outputs: list[np.ndarray], examples: Examples, inputs: Sequence[Any]
                     ) -> list[Prediction]:
    """The prediction for each input, in order.

    Args:
        task: the model's task.
        outputs: one array for each example, see `Task.outputs`.
        examples: what `make_examples` made of the inputs.
        inputs: as the user gave them.
    """
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
    """The name with the highest of the logits (C,), and the softmax of all."""
    probabilities = softmax(logits.astype(np.float64)).tolist()
    return Prediction(names[int(logits.argmax())], dict(zip(names, probabilities)))


def _sigmoid(logits: np.ndarray) -> list[float]:
    """Probabilities of logits (C,), computed by tanh, which does not overflow."""
    return (0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))).tolist()
