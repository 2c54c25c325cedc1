"""Multiple choice about a text (C3): the choice whose row has the highest score is the prediction.

The file is C3's own JSON: a list of [[sentences], [{"question", "choice": [...], "answer"}, ...], id]. Each choice is a
row, [CLS] text [SEP] question choice [SEP], in which the text is shortened first, so that no choice is lost.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import Batch, Examples
from uer.finetuning.config import C3Config, C3InferConfig
from uer.finetuning.heads import MultipleChoice
from uer.finetuning.inputs import Prediction, likeliest
from uer.finetuning.readers import file_hash, member, read_json
from uer.finetuning.rows import Ragged, Sequences, tokenize_all
from uer.finetuning.task import Task, TextToRows

UNANSWERED = -1


@dataclass(frozen=True)
class Question:
    """Holds a question about a text, its choices, and the index of the correct one (UNANSWERED if unknown)."""

    text: str
    question: str
    choices: tuple[str, ...]
    answer: int
    name: str


class MultipleChoiceTask(Task):
    """Predicts one of several choices.

    Args:
        choices_num: rows of each question; a question with fewer choices gets rows [CLS] [SEP], which are never chosen.
    """

    name = "c3"
    metric_names = ("accuracy",)
    config_class = C3Config
    infer_config_class = C3InferConfig

    def __init__(self, choices_num: int) -> None:
        self.choices_num = choices_num

    @classmethod
    def of_training_file(cls, path: str, config: C3Config,
                         columns: tuple[str, ...] = ()) -> "MultipleChoiceTask":
        return cls(config.max_choices_num)

    def examples(self, path: str, encoder: TextToRows, labelled: bool = True) -> Examples:
        return self.of_questions(read_c3(path, self.choices_num, labelled), encoder, labelled, file_hash(path))

    def of_questions(self, questions: list[Question], encoder: TextToRows, labelled: bool = False,
                     hash: str = "") -> Examples:
        """Examples of questions that are read already; `hash` is the SHA-256 of their file.

        Returns:
            Examples with choices_num rows each, and the targets `choices` (N,), the number of real choices, and, if
            `labelled`, `label` (N,).
        """
        rows = _encode(questions, self.choices_num, encoder)
        targets = {"choices": np.array([len(question.choices) for question in questions])}
        if labelled:
            targets["label"] = np.array([question.answer for question in questions])
        return Examples(rows, self.choices_num, targets, info={"names": [question.name for question in questions]},
                        hash=hash)

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        return MultipleChoice(config, vocab_size, self.choices_num)

    def _masked(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Scores (B, choices) with -inf for the rows that are no choice."""
        filled = torch.arange(self.choices_num, device=predicted.device) >= batch.targets["choices"][:, None]
        return predicted.masked_fill(filled, float("-inf"))

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy over the choices of scores (questions, choices), summed over questions."""
        return F.cross_entropy(self._masked(predicted, batch), batch.targets["label"], reduction="sum")

    def outputs(self, predicted: Tensor, batch: Batch) -> list[np.ndarray]:
        """(choices,) scores for each question."""
        return list(self._masked(predicted.float(), batch).cpu().numpy())

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        right = self.chosen(outputs, examples) == examples.targets["label"]
        return {"accuracy": float(right.mean()), "correct": int(right.sum()), "total": len(right)}

    def chosen(self, outputs: list[np.ndarray], examples: Examples) -> np.ndarray:
        """(N,) the index of each example's choice."""
        return np.stack(outputs).argmax(-1)

    def settings(self) -> dict[str, Any]:
        return {"choices_num": self.choices_num}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "MultipleChoiceTask":
        return cls(settings["choices_num"])

    def with_flags(self, flags: C3InferConfig) -> "MultipleChoiceTask":
        """Each choice is scored on its own, so their number may differ from that of the training."""
        return type(self)(flags.max_choices_num or self.choices_num)

    @classmethod
    def of_labels_num(cls, labels_num: int | None) -> "MultipleChoiceTask":
        return cls(labels_num or cls.config_class.max_choices_num)

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """JSON lines as CLUE wants them: the question's number and the choice's, from 0."""
        return [json.dumps({"id": name, "label": choice}, ensure_ascii=False)
                for name, choice in zip(examples.info["names"], self.chosen(outputs, examples).tolist())]

    def input_examples(self, inputs: Sequence[Any], encoder: TextToRows) -> Examples:
        return self.of_questions([_input_question(item, at, self.choices_num) for at, item in enumerate(inputs)],
                                 encoder)

    def input_predictions(self, outputs: list[np.ndarray], examples: Examples,
                          inputs: Sequence[Any]) -> list[Prediction]:
        return [likeliest(output[:len(choices)], choices) for output, (_, _, choices) in zip(outputs, inputs)]


def _input_question(item: Any, at: int, most: int) -> Question:
    if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != 3 or isinstance(item[2], str) or (
            not all(isinstance(part, str) for part in (item[0], item[1], *item[2]))):
        raise UserError(f"predict: input {at} must be (text, question, choices)")
    if not 1 <= len(item[2]) <= most:
        raise UserError(f"predict: input {at} has {len(item[2])} choices; the model takes 1 to {most}")
    return Question(item[0], item[1], tuple(item[2]), UNANSWERED, str(at))


def read_c3(path: str, choices_num: int, labelled: bool) -> list[Question]:
    """The questions of a file; one without an `id` of its own is called <text's id>-<number>.

    Raises:
        UserError: something is not as C3 has it; named by the entry's number.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}: a JSON list of texts with questions is needed")
    found = []
    for number, entry in enumerate(content, start=1):
        questions = _questions(entry, f"{path}: entry {number}", number, labelled)
        if any(len(question.choices) > choices_num for question in questions):
            raise UserError(f"{path}: entry {number}: more than --max_choices_num {choices_num} choices")
        found += questions
    if not found:
        raise UserError(f"{path}: no question in the file")
    return found


def _questions(entry: Any, where: str, number: int, labelled: bool) -> list[Question]:
    """The questions of one entry, [[sentences], [{question, choice, answer}], id]."""
    if not isinstance(entry, list) or len(entry) < 2:
        raise UserError(f"{where} must be a list [[sentences], [{{question, choice, answer}}], id]")
    sentences, questions = entry[0], entry[1]
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        raise UserError(f"{where}: its first item must be a list of sentences")
    if not isinstance(questions, list):
        raise UserError(f"{where}: its second item must be a list of questions")
    name = entry[2] if len(entry) > 2 else number
    return [_question(asked, f"{where}, question {at + 1}", "\n".join(sentences), f"{name}-{at}", labelled)
            for at, asked in enumerate(questions)]


def _question(asked: Any, where: str, text: str, name: str, labelled: bool) -> Question:
    choices = member(asked, "choice", list, where)
    if not choices or not all(isinstance(choice, str) for choice in choices):
        raise UserError(f"{where}: 'choice' must be a list of texts")
    answer = UNANSWERED
    if labelled:
        if member(asked, "answer", str, where) not in choices:
            raise UserError(f"{where}: the answer is none of the choices")
        answer = choices.index(asked["answer"])
    return Question(text, member(asked, "question", str, where), tuple(choices), answer, asked.get("id", name))


def _encode(questions: list[Question], choices_num: int, encoder: TextToRows) -> Sequences:
    vocab = encoder.tokenizer.vocab
    texts = tokenize_all(encoder.tokenizer, [question.text for question in questions])
    asked = tokenize_all(encoder.tokenizer, [f"{question.question} {choice}" for question in questions
                                             for choice in question.choices])
    cls, sep = (np.array([token], np.int32) for token in (vocab.cls_id, vocab.sep_id))
    empty, rows, first, at = np.concatenate([cls, sep]), [], [], 0
    for number, question in enumerate(questions):
        for _ in question.choices:
            second = asked[at][-(encoder.seq_length - 3):]
            text = texts[number][:encoder.seq_length - 3 - len(second)]
            rows.append(np.concatenate([cls, text, sep, second, sep]))
            first.append(len(text) + 2)
            at += 1
        missing = choices_num - len(question.choices)
        rows += [empty] * missing
        first += [len(empty)] * missing
    return Sequences(Ragged.of(rows), np.array(first))
