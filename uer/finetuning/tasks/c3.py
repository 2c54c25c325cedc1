"""Multiple choice about a text (C3): the choice whose row scores highest.

The file is C3's own JSON: a list of [[sentences], [{"question", "choice": [...], "answer"}, ...], id]. Each choice is a
row, [CLS] text [SEP] question choice [SEP], in which the text is shortened first, so that no choice is lost.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.config import ModelConfig
from uer.data.batch import Batch
from uer.errors import UserError
from uer.finetuning.batches import Examples
from uer.finetuning.config import C3Config
from uer.finetuning.encode import Ragged, Sequences, tokenize_all
from uer.finetuning.heads import MultipleChoice
from uer.finetuning.readers import file_hash, read_json
from uer.finetuning.task import Task, TextEncoder

UNANSWERED = -1


@dataclass(frozen=True)
class Question:
    """One question about a text."""

    text: str
    question: str
    choices: tuple[str, ...]
    answer: int
    name: str


class MultipleChoiceTask(Task):
    """C3.

    Args:
        choices_num: rows of a question; questions with fewer choices are filled up.
    """

    name = "c3"
    metric_names = ("accuracy",)
    head_keys = ("output_layer.weight", "output_layer.bias")
    config_class = C3Config

    def __init__(self, choices_num: int) -> None:
        self.choices_num = choices_num

    @classmethod
    def of_training_file(cls, path: str, config: C3Config) -> "MultipleChoiceTask":
        return cls(config.max_choices_num)

    def examples(self, path: str, encoder: TextEncoder, labelled: bool = True) -> Examples:
        return self.of_questions(read_c3(path, self.choices_num, labelled), encoder, labelled, file_hash(path))

    def of_questions(self, questions: list[Question], encoder: TextEncoder, labelled: bool = False,
                     hash: str = "") -> Examples:
        """Examples of questions that are read already; `hash` is their file's."""
        rows = _encode(questions, self.choices_num, encoder)
        targets = {"choices": np.array([len(question.choices) for question in questions])}
        if labelled:
            targets["label"] = np.array([question.answer for question in questions])
        return Examples(rows, self.choices_num, targets, info={"names": [question.name for question in questions]},
                        hash=hash)

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        return MultipleChoice(config, vocab_size, self.choices_num)

    def _masked(self, predicted: Tensor, batch: Batch) -> Tensor:
        filled = torch.arange(self.choices_num, device=predicted.device) >= batch.targets["choices"][:, None]
        return predicted.masked_fill(filled, float("-inf"))

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(self._masked(predicted, batch), batch.targets["label"], reduction="sum")

    def outputs(self, predicted: Tensor, batch: Batch) -> list[np.ndarray]:
        return list(self._masked(predicted.float(), batch).cpu().numpy())

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        right = np.stack(outputs).argmax(-1) == examples.targets["label"]
        return {"accuracy": float(right.mean()), "correct": int(right.sum()), "total": len(right)}

    def settings(self) -> dict[str, Any]:
        return {"choices_num": self.choices_num}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "MultipleChoiceTask":
        return cls(settings["choices_num"])

    @classmethod
    def of_labels_num(cls, labels_num: int | None) -> "MultipleChoiceTask":
        return cls(labels_num or C3Config.max_choices_num)

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """JSON lines as CLUE wants them: the question's number and the choice's, from 0."""
        return [json.dumps({"id": name, "label": int(output.argmax())}, ensure_ascii=False)
                for name, output in zip(examples.info["names"], outputs)]


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
        try:
            sentences, questions = entry[0], entry[1]
            name = entry[2] if len(entry) > 2 else number
            for at, question in enumerate(questions):
                choices = tuple(question["choice"])
                answer = choices.index(question["answer"]) if labelled else UNANSWERED
                found.append(Question("\n".join(sentences), question["question"], choices, answer,
                                      question.get("id", f"{name}-{at}")))
        except (KeyError, TypeError, IndexError, AttributeError):
            raise UserError(f"{path}: entry {number} is not [[sentences], [{{question, choice, answer}}], "
                            "id]") from None
        except ValueError:
            raise UserError(f"{path}: entry {number}: the answer is none of the choices") from None
        if any(len(question["choice"]) > choices_num for question in questions):
            raise UserError(f"{path}: entry {number}: more than --max_choices_num {choices_num} choices")
    return found


def _encode(questions: list[Question], choices_num: int, encoder: TextEncoder) -> Sequences:
    vocab = encoder.tokenizer.vocab
    texts = tokenize_all(encoder.tokenizer, [question.text for question in questions])
    asked = tokenize_all(encoder.tokenizer, [f"{question.question} {choice}" for question in questions
                                             for choice in question.choices])
    empty, rows, first, at = np.array([vocab.cls_id, vocab.sep_id]), [], [], 0
    for number, question in enumerate(questions):
        for _ in question.choices:
            second = asked[at][-(encoder.seq_length - 3):]
            text = texts[number][:encoder.seq_length - 3 - len(second)]
            rows.append(np.concatenate([[vocab.cls_id], text, [vocab.sep_id], second, [vocab.sep_id]]))
            first.append(len(text) + 2)
            at += 1
        missing = choices_num - len(question.choices)
        rows += [empty] * missing
        first += [len(empty)] * missing
    return Sequences(Ragged.of(rows), np.array(first))
