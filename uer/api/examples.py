"""Converts texts, pairs of texts and questions in memory to the examples of a task, without targets.

| task | one input |
|---|---|
| classifier, multi_label, regression | a text, or a pair (text, text) |
| siamese, simcse | a pair (text, text) |
| ner | a text, or a list of words |
| cmrc | a pair (question, text) |
| c3 | a triple (text, question, choices) |
"""

from collections.abc import Sequence
from typing import Any

from uer.errors import UserError
from uer.finetuning.batches import Examples
from uer.finetuning.task import Task, TextToRows
from uer.finetuning.tasks import c3, cmrc
from uer.finetuning.tasks.classification import Classification
from uer.finetuning.tasks.multi_label import MultiLabel
from uer.finetuning.tasks.ner import Ner, encode_words
from uer.finetuning.tasks.regression import Regression
from uer.finetuning.tasks.siamese import Siamese, interleave
from uer.finetuning.tasks.simcse import Simcse


def make_examples(task: Task, encoder: TextToRows, inputs: Sequence[Any]) -> Examples:
    """Convert N inputs to N examples (with cmrc, one or more windows for each input).

    Args:
        task: the task, which decides what an input is; see the table above.
        encoder: converts texts to rows of token ids.
        inputs: texts, pairs, triples or lists of words.

    Raises:
        UserError: an input is not what the task reads; named by its number, counted from 0.
    """
    if isinstance(task, (Siamese, Simcse)):
        first, second = _pairs(inputs, task.name)
        return Examples(interleave(encoder.sequences(first), encoder.sequences(second)), ways=2)
    if isinstance(task, Ner):
        rows, numbers = encode_words(words := [split_words(item, at) for at, item in enumerate(inputs)], encoder)
        return Examples(rows, token_targets={"word": numbers},
                        info={"words": [len(row) for row in words], "tags": [], "texts": words})
    if isinstance(task, cmrc.ReadingComprehension):
        asked, texts = _pairs(inputs, task.name, "(question, text)")
        return task.of_questions([cmrc.Question(str(number), question, text)
                                  for number, (question, text) in enumerate(zip(asked, texts))], encoder)
    if isinstance(task, c3.MultipleChoiceTask):
        return task.of_questions([_question(item, at, task.choices_num) for at, item in enumerate(inputs)], encoder)
    if isinstance(task, (Classification, MultiLabel, Regression)):
        return Examples(_texts(task, encoder, inputs))
    raise UserError(f"predict: the task '{task.name}' is unknown")


def split_words(item: str | Sequence[str], at: int) -> list[str]:
    """The words of a text as `run_ner.py` reads them: in a text without spaces every character is a word.

    >>> split_words("北京", 0), split_words("New York", 0)
    (['北', '京'], ['New', 'York'])

    Args:
        item: a text or a list of words.
        at: number of the input, for the message.

    Raises:
        UserError: it is neither of them.
    """
    if not isinstance(item, str):
        if not isinstance(item, Sequence) or not all(isinstance(word, str) and word.strip() for word in item):
            raise UserError(f"predict: input {at} must be a text or a list of words")
        return list(item)
    words = item.split()
    return list(item.strip()) if len(words) == 1 else words


def _texts(task: Task, encoder: TextToRows, inputs: Sequence[Any]) -> Any:
    """Rows of single texts or of pairs; all inputs must be of the kind that the model was trained on."""
    paired = bool(inputs) and not isinstance(inputs[0], str)
    trained_on_pairs = getattr(task, "pairs", None)
    if inputs and trained_on_pairs is not None and trained_on_pairs != paired:
        raise UserError("predict: the model is trained on pairs of texts; give (text, text)" if trained_on_pairs else
                        "predict: the model is trained on single texts, not on pairs")
    if paired:
        return encoder.sequences(*_pairs(inputs, task.name))
    for at, item in enumerate(inputs):
        require_text(item, at, "predict")
    return encoder.sequences(inputs)


def _pairs(inputs: Sequence[Any], task: str, form: str = "(text, text)") -> tuple[list[str], list[str]]:
    for at, item in enumerate(inputs):
        if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != 2:
            raise UserError(f"predict: input {at} must be a pair {form} for the task '{task}'")
        for part in item:
            require_text(part, at, "predict")
    return [first for first, _ in inputs], [second for _, second in inputs]


def _question(item: Any, at: int, most: int) -> c3.Question:
    if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != 3 or isinstance(item[2], str) or (
            not all(isinstance(part, str) for part in (item[0], item[1], *item[2]))):
        raise UserError(f"predict: input {at} must be (text, question, choices)")
    if not 1 <= len(item[2]) <= most:
        raise UserError(f"predict: input {at} has {len(item[2])} choices; the model takes 1 to {most}")
    return c3.Question(item[0], item[1], tuple(item[2]), c3.UNANSWERED, str(at))


def require_text(item: Any, at: int, method: str) -> None:
    """
    Raises:
        UserError: an input is not a string, or holds half of a surrogate pair.
    """
    if not isinstance(item, str):
        raise UserError(f"{method}: input {at} must be a text, not {type(item).__name__}")
    if any("\ud800" <= char <= "\udfff" for char in item):
        raise UserError(f"{method}: input {at} holds half of a surrogate pair, which is not a character")
