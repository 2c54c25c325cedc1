"""Reading comprehension: find the part of a text that answers a question (CMRC 2018; SQuAD's JSON).

A text that is longer than a row is split into windows that overlap; the span with the best score in any window is the
answer. With seq_length 9, a question of 2 tokens and doc_stride 3, a text of 10 tokens t0 .. t9 becomes three rows:

    [CLS] q0 q1 [SEP] t0 t1 t2 t3 [SEP]
    [CLS] q0 q1 [SEP] t3 t4 t5 t6 [SEP]
    [CLS] q0 q1 [SEP] t6 t7 t8 t9 [SEP]

The answer t4 t5 is at positions 5 and 6 of the second row; in the others, which do not hold it, the target is
position 0, [CLS]. The characters of each token in the text are known, so the answer is cut from the text itself.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.answer_metrics import exact_match, f1_score, split_pieces
from uer.finetuning.batches import Batch, Examples
from uer.finetuning.config import CmrcConfig, CmrcInferConfig
from uer.finetuning.heads import Tagger
from uer.finetuning.inputs import Prediction, text_pairs
from uer.finetuning.readers import file_hash, member, read_json, require_different
from uer.finetuning.rows import Ragged, Sequences, tokenize_all
from uer.finetuning.task import Task, TextToRows
from uer.tokenizers import Tokenizer

LONGEST_QUESTION = 64
SHORTEST_ROW = 7  # [CLS], half of the row's tokens for the question, [SEP], a token of the text, [SEP]

logger = logging.getLogger("uer.finetuning")


@dataclass(frozen=True)
class Question:
    """Holds a question, its text and its correct answers; `start` is the first character of answers[0] in the text."""

    name: str
    question: str
    text: str
    answers: tuple[str, ...] = ()
    start: int = 0


@dataclass(frozen=True)
class Window:
    """Describes a row: it holds the tokens first .. last - 1 of a question's text, beginning at position `offset`.

    The second row of the example above is Window(question=0, first=3, last=7, offset=4).
    """

    question: int
    first: int
    last: int
    offset: int


class ReadingComprehension(Task):
    """Predicts the first and the last token of an answer.

    Args:
        doc_stride: tokens between the starts of two windows.
        max_answer_length: maximum tokens in an answer.
    """

    name = "cmrc"
    noun = "answer"
    metric_names = ("f1", "em")
    config_class = CmrcConfig
    infer_config_class = CmrcInferConfig

    def __init__(self, doc_stride: int, max_answer_length: int) -> None:
        self.doc_stride = doc_stride
        self.max_answer_length = max_answer_length

    @classmethod
    def of_training_file(cls, path: str, config: CmrcConfig,
                         columns: tuple[str, ...] = ()) -> "ReadingComprehension":
        return cls(config.doc_stride, config.max_answer_length)

    def examples(self, path: str, encoder: TextToRows, labelled: bool = True) -> Examples:
        examples = self.of_questions(read_squad(path, labelled), encoder, labelled, file_hash(path))
        self._warn_of_gaps(path, examples.info["windows"], encoder.seq_length)
        return examples

    def of_questions(self, questions: list[Question], encoder: TextToRows, labelled: bool = False,
                     hash: str = "") -> Examples:
        """Examples of questions that are read already; each window is an example.

        Args:
            labelled: whether the questions have answers.
            hash: SHA-256 of their file.

        Returns:
            Examples with the targets `span` (windows, 2), the positions of the answer's first and last token in the
            row, and `offset` (windows,). `info` has the questions, the windows, and `spans`: for each question
            (tokens, 2), the first character of each token in the text and the character after its last.
        """
        asked = tokenize_all(encoder.tokenizer, [question.question for question in questions])
        texts = encode_texts([question.text for question in questions], encoder.tokenizer)
        rows, windows, spans, targets = [], [], [], []
        for number, question in enumerate(questions):
            ids, places = texts[question.text]
            spans.append(places)
            gold = gold_tokens(question, spans[-1]) if labelled else None
            for row, window in self._windows(number, asked[number][:LONGEST_QUESTION], ids, encoder):
                rows.append(row)
                windows.append(window)
                targets.append(window_target(window, gold))
        offsets = np.array([window.offset for window in windows])
        return Examples(Sequences(Ragged.of(rows), offsets),
                        targets={"span": np.array(targets), "offset": offsets},
                        info={"questions": questions, "windows": windows, "spans": spans},
                        hash=hash)

    def _windows(self, number: int, asked: np.ndarray, ids: np.ndarray,
                 encoder: TextToRows) -> list[tuple[np.ndarray, Window]]:
        """The rows [CLS] question [SEP] part of the text [SEP] of one question, as many as its text needs.

        Args:
            number: index of the question.
            asked, ids: token ids of the question and of its text, one axis each.

        Raises:
            UserError: a row has no room for a token of the text.
        """
        vocab = encoder.tokenizer.vocab
        cls, sep = (np.array([token], np.int32) for token in (vocab.cls_id, vocab.sep_id))
        head = np.concatenate([cls, asked[:encoder.seq_length // 2], sep])
        room = encoder.seq_length - len(head) - 1
        if room < 1:
            raise UserError(f"--seq_length {encoder.seq_length}: a row with a question has no room for its text; "
                            f"{SHORTEST_ROW} is the least")
        found, first = [], 0
        while True:
            last = min(first + room, len(ids))
            row = np.concatenate([head, ids[first:last], sep])
            found.append((row, Window(number, first, last, len(head))))
            if last == len(ids):
                return found
            first += min(self.doc_stride, room)

    def _warn_of_gaps(self, path: str, windows: list[Window], seq_length: int) -> None:
        """Log a warning if windows do not overlap: an answer across a border is then in none of them."""
        apart = sum(one.question == other.question and one.last <= other.first
                    for one, other in pairwise(windows))
        if apart:
            logger.warning("%s: --doc_stride %d leaves no overlap between %d windows of --seq_length %d and the next; "
                           "a smaller one finds answers over their borders", path, self.doc_stride, apart, seq_length)

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        return Tagger(config, vocab_size, 2)

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """The mean of the cross-entropies of the first and the last token, summed over windows.

        Args:
            predicted: logits (B, S, 2) of the first and the last token.
            batch: target `span` (B, 2), positions in the row; [CLS], 0, if the window does not hold the answer.
        """
        predicted = predicted.masked_fill((batch.seg == 0)[:, :, None], float("-inf"))
        first, last = predicted.unbind(-1)
        span = batch.targets["span"]
        return (F.cross_entropy(first, span[:, 0], reduction="sum")
                + F.cross_entropy(last, span[:, 1], reduction="sum")) / 2

    def outputs(self, predicted: Tensor, batch: Batch) -> list[np.ndarray]:
        """For each window (2 * tokens,): log-probabilities of the first token, then those of the last, over its text.

        Args:
            predicted: logits (B, S, 2).
            batch: target `offset` (B,), where the text begins in each row.
        """
        scores = torch.log_softmax(predicted.float().masked_fill((batch.seg == 0)[:, :, None], float("-inf")), dim=1)
        found = []
        for row, length, offset in zip(scores.cpu().numpy(), batch.real_tokens.tolist(),
                                       batch.targets["offset"].tolist()):
            found.append(row[offset:length - 1].T.reshape(-1))  # (S, 2) -> (tokens, 2) -> (2 * tokens,)
        return found

    def answers(self, outputs: list[np.ndarray], examples: Examples) -> list[str]:
        """The answer to each question: the text of the most probable span in any of its windows.

        Args:
            outputs: one array for each window, see `outputs`.
        """
        questions, spans = examples.info["questions"], examples.info["spans"]
        best = [(-np.inf, "")] * len(questions)
        for output, window in zip(outputs, examples.info["windows"]):
            score, first, last = best_span(output.reshape(2, -1), self.max_answer_length)
            if score > best[window.question][0]:
                where = spans[window.question][window.first:window.last]
                text = questions[window.question].text[where[first][0]:where[last][1]]
                best[window.question] = (score, text)
        return [text for _, text in best]

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        pairs = list(zip(self.answers(outputs, examples), examples.info["questions"]))
        return {"f1": float(np.mean([max(f1_score(text, right) for right in question.answers)
                                     for text, question in pairs])),
                "em": float(np.mean([max(exact_match(text, right) for right in question.answers)
                                     for text, question in pairs]))}

    def settings(self) -> dict[str, Any]:
        return {"doc_stride": self.doc_stride, "max_answer_length": self.max_answer_length}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "ReadingComprehension":
        return cls(settings["doc_stride"], settings["max_answer_length"])

    def with_flags(self, flags: CmrcInferConfig) -> "ReadingComprehension":
        return ReadingComprehension(flags.doc_stride or self.doc_stride,
                                    flags.max_answer_length or self.max_answer_length)

    def inputs_num(self, examples: Examples) -> int:
        return len(examples.info["questions"])

    @classmethod
    def of_labels_num(cls, labels_num: int | None) -> "ReadingComprehension":
        return cls(CmrcConfig.doc_stride, CmrcConfig.max_answer_length)

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """One JSON object: the question's id -> the answer."""
        names = [question.name for question in examples.info["questions"]]
        return [json.dumps(dict(zip(names, self.answers(outputs, examples))), ensure_ascii=False, indent=2)]

    def input_examples(self, inputs: Sequence[Any], encoder: TextToRows) -> Examples:
        pairs = zip(*text_pairs(inputs, self.name, "(question, text)"))
        return self.of_questions([Question(str(number), question, text)
                                  for number, (question, text) in enumerate(pairs)], encoder)

    def input_predictions(self, outputs: list[np.ndarray], examples: Examples,
                          inputs: Sequence[Any]) -> list[Prediction]:
        return [Prediction(answer) for answer in self.answers(outputs, examples)]


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every different text -> its token ids, int32 (tokens,), and the characters of each token in the text, int64
    (tokens, 2): the first one and the one after the last. A token's are those of its whole word."""
    pieces = {text: split_pieces(text) for text in texts}
    tokens = tokenize_all(tokenizer, [text[start:stop] for text, parts in pieces.items() for start, stop in parts])
    found, at = {}, 0
    for text, parts in pieces.items():
        ends = tokens.offsets[at:at + len(parts) + 1]  # (pieces + 1,)
        places = np.array(parts, np.int64).reshape(-1, 2)  # (pieces, 2)
        found[text] = tokens.values[ends[0]:ends[-1]], places.repeat(np.diff(ends), axis=0)
        at += len(parts)
    return found


def best_span(scores: np.ndarray, longest: int) -> tuple[float, int, int]:
    """The most probable span of at most `longest` tokens.

    >>> best_span(np.log(np.array([[0.1, 0.6, 0.3], [0.5, 0.1, 0.4]])), 2)[1:]
    (1, 2)

    Args:
        scores: (2, tokens) log-probabilities of the first and of the last token.

    Returns:
        (score, first, last): the sum of both log-probabilities, and the positions of the tokens.
    """
    best = (-np.inf, 0, 0)
    for length in range(min(longest, scores.shape[1])):
        sums = scores[0, :scores.shape[1] - length] + scores[1, length:]
        first = int(sums.argmax())
        if sums[first] > best[0]:
            best = (float(sums[first]), first, first + length)
    return best


def gold_tokens(question: Question, spans: np.ndarray) -> tuple[int, int]:
    """The first and the last token of the answer; (-1, -1) if no token has any of its characters.

    Args:
        spans: (tokens, 2), the first character of each token and the character after its last.
    """
    stop = question.start + len(question.answers[0])
    touched = np.nonzero((spans[:, 1] > question.start) & (spans[:, 0] < stop))[0]
    return (int(touched[0]), int(touched[-1])) if len(touched) else (-1, -1)


def window_target(window: Window, gold: tuple[int, int] | None) -> tuple[int, int]:
    """The positions of the answer's first and last token in the window's row; (0, 0) if the window does not hold both.

    >>> window_target(Window(question=0, first=3, last=7, offset=4), (4, 5))
    (5, 6)
    """
    if gold is None or gold[0] < window.first or gold[1] >= window.last:
        return 0, 0
    return gold[0] - window.first + window.offset, gold[1] - window.first + window.offset


def read_squad(path: str, labelled: bool) -> list[Question]:
    """The questions of {"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}.

    Raises:
        UserError: the file has another structure, a text does not contain its answer, or without labels two questions
            have the same id, by which predictions are written.
    """
    found = []
    for number, article in enumerate(member(read_json(path), "data", list, f"{path}: the file"), start=1):
        where = f"{path}: article {number}"
        for at, paragraph in enumerate(member(article, "paragraphs", list, where), start=1):
            found += _questions(paragraph, f"{where}, paragraph {at}", labelled)
    if not found:
        raise UserError(f"{path}: no question in the file")
    if not labelled:
        require_different([question.name for question in found], f"{path}: two questions have the id")
    return found


def _questions(paragraph: Any, where: str, labelled: bool) -> list[Question]:
    """The questions of a paragraph, {"context", "qas": [{"id", "question", "answers"}]}."""
    text, found = member(paragraph, "context", str, where), []
    for number, asked in enumerate(member(paragraph, "qas", list, where), start=1):
        name = asked.get("id") if isinstance(asked, dict) else None
        if not isinstance(name, (str, int)):
            raise UserError(f"{where}, question {number} must be an object with 'id', 'question' and 'answers'")
        here = f"{where}, question {name}"
        answers, start = _answers(asked, here) if labelled else ((), 0)
        found.append(_relocated(Question(str(name), member(asked, "question", str, here), text, answers, start)))
        if labelled and answers[0] not in text:
            raise UserError(f"{here}: its answer is not in the text")
    return found


def _answers(asked: dict[str, Any], where: str) -> tuple[tuple[str, ...], int]:
    """The correct answers, and the first character of the first one in the text."""
    answers = member(asked, "answers", list, where)
    if not answers:
        raise UserError(f"{where} has no answer")
    texts = tuple(member(answer, "text", str, f"{where}, answer {number}") for number, answer in enumerate(answers, 1))
    if not texts[0].strip():
        raise UserError(f"{where}, answer 1: 'text' is empty")
    return texts, member(answers[0], "answer_start", int, f"{where}, answer 1")


def _relocated(question: Question) -> Question:
    """Correct `start`: some answers in CMRC's files are a few characters off, and the nearest occurrence is meant."""
    if not question.answers or question.answers[0] not in question.text:
        return question
    answer, starts, at = question.answers[0], [], -1
    while (at := question.text.find(answer, at + 1)) >= 0:
        starts.append(at)
    start = min(starts, key=lambda at: abs(at - question.start))
    return Question(question.name, question.question, question.text, question.answers, start)
