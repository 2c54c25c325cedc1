"""Idiom cloze (ChID): which of the candidate idioms was removed at each blank of some passages.

The file has a JSON object on every line, and the answers are in a file of their own:

    {"candidates": ["一帆风顺", "画蛇添足"], "content": ["他做事总是#idiom000001#，多此一举。"]}
    {"#idiom000001#": 1}

Each blank is an example and each candidate a row of it, with as much of the passage around the blank as fits, where
other blanks are [MASK]:

    [CLS] 画 蛇 添 足 [SEP] 他 做 事 总 是 [SEP] ， 多 此 一 举 。 [SEP]

A candidate fills one blank of a line at most: the blank and the candidate with the highest score come first.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from uer.errors import UserError
from uer.finetuning.batches import Examples
from uer.finetuning.config import C3InferConfig, ChidConfig
from uer.finetuning.inputs import Prediction, require_text
from uer.finetuning.readers import file_hash, member, read_json, read_lines, require_different
from uer.finetuning.rows import Ragged, Sequences, tokenize_all
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.c3 import MultipleChoiceTask
from uer.json_files import parse_json

BLANK = re.compile(r"(#idiom\d+#)")


@dataclass(frozen=True)
class Passages:
    """Holds the passages of one line, their candidates, and where the line stands, for messages."""

    texts: tuple[str, ...]
    candidates: tuple[str, ...]
    where: str


@dataclass
class ChidRows:
    """Collects the rows of the examples: `choices_num` rows for every blank."""

    rows: list[np.ndarray] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    choices: list[int] = field(default_factory=list)


class Chid(MultipleChoiceTask):
    """Chooses an idiom for every blank."""

    name = "chid"
    config_class = ChidConfig
    infer_config_class = C3InferConfig
    tokenizer = "char"
    train_answers: Mapping[str, int] = {}
    dev_answers: Mapping[str, int] = {}
    answer_paths: tuple[str, str] = ("", "")

    @classmethod
    def of_training_file(cls, path: str, config: ChidConfig, columns: tuple[str, ...] = ()) -> "Chid":
        task = cls(config.max_choices_num)
        task.answer_paths = (config.train_answer_path, config.dev_answer_path)
        task.train_answers, task.dev_answers = map(read_answers, task.answer_paths)
        return task

    def examples(self, path: str, encoder: TextToRows, labelled: bool = True) -> Examples:
        return self._with_answers(path, encoder, self.train_answers, self.answer_paths[0], labelled)

    def evaluation_examples(self, path: str, encoder: TextToRows) -> Examples:
        return self._with_answers(path, encoder, self.dev_answers, self.answer_paths[1], True)

    def _with_answers(self, path: str, encoder: TextToRows, answers: Mapping[str, int], source: str,
                      labelled: bool) -> Examples:
        passages = read_chid(path)
        examples = self.of_passages(passages, encoder, file_hash(path))
        if labelled:
            examples.targets["label"] = _labels(examples, answers, source, passages)
        else:
            require_different(examples.info["tags"], f"{path}: two blanks are called")
        return examples

    def of_passages(self, passages: Sequence[Passages], encoder: TextToRows, hash: str = "") -> Examples:
        """Examples of passages that are read already, without the target `label`; `hash` is that of their file.

        Returns:
            Examples with the target `choices` (N,), the number of candidates, and the blanks and the index of their
            line as `info["tags"]` and `info["groups"]`.

        Raises:
            UserError: a line has no blank, or too many candidates.
        """
        # Of each passage of each line: text, blank, text, ..., blank, text
        divided = [[BLANK.split(text) for text in line.texts] for line in passages]
        for line, texts in zip(passages, divided):
            if not 1 <= len(line.candidates) <= self.choices_num:
                raise UserError(f"{line.where}: {len(line.candidates)} candidates; --max_choices_num is "
                                f"{self.choices_num}")
            if not any(len(parts) > 1 for parts in texts):
                raise UserError(f"{line.where}: no blank such as #idiom000001# in the passages")
        idioms = iter(tokenize_all(encoder.tokenizer, [each for line in passages for each in line.candidates]))
        pieces = iter(tokenize_all(encoder.tokenizer, [part for texts in divided for parts in texts
                                                       for part in parts[::2]]))
        found = ChidRows()
        for number, (line, texts) in enumerate(zip(passages, divided)):
            own = list(itertools.islice(idioms, len(line.candidates)))
            for parts in texts:
                self._add(found, number, own, list(itertools.islice(pieces, len(parts[::2]))), parts[1::2], encoder)
        tokens = Ragged.of(found.rows)
        return Examples(Sequences(tokens, np.diff(tokens.offsets)), self.choices_num,
                        {"choices": np.array(found.choices)}, info={"tags": found.tags, "groups": found.groups},
                        hash=hash)

    def _add(self, found: ChidRows, number: int, idioms: Sequence[np.ndarray], pieces: Sequence[np.ndarray],
             tags: Sequence[str], encoder: TextToRows) -> None:
        """Append the rows of every blank of a passage.

        Args:
            found: gets them.
            number: of the passage's line.
            idioms: token ids of the candidates.
            pieces: token ids of the texts between the blanks, one more than there are `tags`.
        """
        vocab, most = encoder.tokenizer.vocab, min(encoder.seq_length // 2, encoder.seq_length - 4)
        cls, sep, mask = (np.array([token], np.int32) for token in (vocab.cls_id, vocab.sep_id, vocab.mask_id))
        for at, tag in enumerate(tags):
            left, right = _joined(pieces[:at + 1], mask), _joined(pieces[at + 1:], mask)
            for idiom in (each[:most] for each in idioms):
                first, second = window(len(left), len(right), encoder.seq_length - 4 - len(idiom))
                found.rows.append(np.concatenate([cls, idiom, sep, left[len(left) - first:], sep, right[:second], sep]))
            found.rows += [np.concatenate([cls, sep])] * (self.choices_num - len(idioms))
            found.tags.append(tag)
            found.groups.append(number)
            found.choices.append(len(idioms))

    def chosen(self, outputs: list[np.ndarray], examples: Examples) -> np.ndarray:
        """(N,) the index of each blank's candidate; -1 where its line has more blanks than candidates."""
        groups = np.array(examples.info["groups"])
        found = np.full(len(outputs), -1)
        for start, stop in zip(starts := np.flatnonzero(np.diff(groups, prepend=-1)), [*starts[1:], len(groups)]):
            for blank, choice in assign(np.stack(outputs[start:stop])):
                found[start + blank] = choice
        return found

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """One JSON object: the blank -> the index of its candidate."""
        pairs = zip(examples.info["tags"], self.chosen(outputs, examples).tolist())
        return [json.dumps({tag: choice for tag, choice in pairs if choice >= 0}, ensure_ascii=False, indent=2)]

    def input_examples(self, inputs: Sequence[Any], encoder: TextToRows) -> Examples:
        return self.of_passages([_input_passages(item, at) for at, item in enumerate(inputs)], encoder)

    def input_predictions(self, outputs: list[np.ndarray], examples: Examples,
                          inputs: Sequence[Any]) -> list[Prediction]:
        found: list[dict[str, str]] = [{} for _ in inputs]
        choices = self.chosen(outputs, examples).tolist()
        for tag, group, choice in zip(examples.info["tags"], examples.info["groups"], choices):
            if choice >= 0:
                found[group][tag] = inputs[group][1][choice]
        return [Prediction(each) for each in found]


def window(left: int, right: int, wanted: int) -> tuple[int, int]:
    """How many of the tokens left and right of a blank are read: the same on both sides, unless one side has fewer.

    >>> window(50, 49, 20), window(3, 96, 20), window(97, 2, 20), window(12, 5, 20)
    ((10, 10), (3, 17), (18, 2), (12, 5))

    Args:
        left, right: how many there are.
        wanted: how many fit the row together.
    """
    first = min(left, max(wanted // 2, wanted - right))
    return first, min(right, wanted - first)


def assign(scores: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (blank, candidate), each blank and each candidate once, by falling score.

    >>> assign(np.array([[0.1, 2.0, 0.3], [1.5, 1.9, 0.2]]))
    [(0, 1), (1, 0)]

    Args:
        scores: (blanks, candidates); -inf for what is no candidate.
    """
    scores, pairs = scores.copy(), []
    while np.isfinite(scores.max()):
        blank, choice = np.unravel_index(scores.argmax(), scores.shape)
        pairs.append((int(blank), int(choice)))
        scores[blank], scores[:, choice] = -np.inf, -np.inf
    return pairs


def _joined(pieces: Sequence[np.ndarray], mask: np.ndarray) -> np.ndarray:
    """The token ids of texts with `mask`, (1,), between each two: [7 8], [9] -> [7 8 mask 9]."""
    return np.concatenate([part for piece in pieces for part in (mask, piece)][1:])


def _labels(examples: Examples, answers: Mapping[str, int], source: str, passages: Sequence[Passages]) -> np.ndarray:
    """The index of every blank's correct candidate, int64 (N,)."""
    labels = np.empty(len(examples), np.int64)
    rows = zip(examples.info["tags"], examples.info["groups"], examples.targets["choices"])
    for number, (tag, group, choices) in enumerate(rows):
        answer = answers.get(tag)
        if answer is None or answer >= choices:
            raise UserError(f"{passages[group].where}: " + (
                f"{source} has no answer for {tag}" if answer is None else
                f"the answer for {tag} is {answer}, but there are {choices} candidates"))
        labels[number] = answer
    return labels


def read_answers(path: str) -> dict[str, int]:
    """The JSON object from blanks to the indices of their candidates.

    Raises:
        UserError: the file is no such object.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(type(answer) is int and answer >= 0 for answer in content.values()):
        raise UserError(f"{path}: a JSON object from blanks to the numbers of candidates, from 0, is needed")
    return content


def read_chid(path: str) -> list[Passages]:
    """The lines of a file.

    Raises:
        UserError: a line is no object with `candidates` and `content`; named by file and line.
    """
    found = []
    for number, line in read_lines(path, Counter()):
        where = f"{path}:{number}"
        content = parse_json(line, path, number)
        lists = [member(content, name, list, where) for name in ("content", "candidates")]
        if not all(isinstance(text, str) for texts in lists for text in texts):
            raise UserError(f"{where}: 'content' and 'candidates' must be lists of texts")
        found.append(Passages(tuple(lists[0]), tuple(lists[1]), where))
    if not found:
        raise UserError(f"{path}: no example in the file")
    return found


def _input_passages(item: Any, at: int) -> Passages:
    if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != 2 or any(
            isinstance(part, str) or not isinstance(part, Sequence) for part in item):
        raise UserError(f"predict: input {at} must be a pair (passages, candidates) of lists")
    for text in (*item[0], *item[1]):
        require_text(text, at)
    return Passages(tuple(item[0]), tuple(item[1]), f"predict: input {at}")
