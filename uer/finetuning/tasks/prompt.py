"""Classification by a prompt: a masked language model fills in the answer, and each label has an answer.

A prompt of --prompt_path is a template and the answers:

    {"chnsenticorp_char": {"template": "[TEXT_A],我[ANS]满意", "answer_words": {"0": "不", "1": "很"}}}

The text 房间很干净 becomes

    [CLS] 房 间 很 干 净 , 我 [MASK] 满 意 [SEP]

and the label is the answer with the best score at [MASK]. In a template with [TEXT_B], a [SEP] follows [TEXT_A]. The
row has as many [MASK] as the longest answer has tokens; a shorter answer is compared at the first of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import IGNORED, Batch, Examples
from uer.finetuning.config import PromptConfig, PromptInferConfig
from uer.finetuning.labels import LabelSet, shorten
from uer.finetuning.readers import member, read_json
from uer.finetuning.rows import Ragged, Sequences, keep, tokenize_all
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import Classification
from uer.model import Model
from uer.model_settings import find_config

TEXT_A, TEXT_B, ANSWER = "[TEXT_A]", "[TEXT_B]", "[ANS]"


@dataclass(frozen=True)
class Prompt:
    """A template, and the answer of each label."""

    name: str
    template: str
    answers: dict[str, str]

    @property
    def pairs(self) -> bool:
        """Whether it reads two texts."""
        return TEXT_B in self.template

    @property
    def parts(self) -> list[str]:
        """The template in parts: `[TEXT_A],我[ANS]满意` is `[TEXT_A]`, `,我`, `[ANS]` and `满意`."""
        return [part for part in re.split(r"(\[TEXT_A\]|\[TEXT_B\]|\[ANS\])", self.template) if part]


class MaskedWords(Model):
    """A model with the target mlm, which predicts the tokens at the positions `mask` of each row."""

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, P, V) at the target `mask` (B, P)."""
        return self.target["mlm"].logits(self.encode_at(batch.src, batch.seg, batch.targets["mask"]))


class PromptClassification(Classification):
    """Predicts the label whose answer is likeliest at the [MASK] tokens."""

    name = "classifier_prompt"
    config_class = PromptConfig
    infer_config_class = PromptInferConfig
    has_target = True
    labels_source = "the prompt"

    def __init__(self, prompt: Prompt) -> None:
        super().__init__(LabelSet.of(prompt.answers), pairs=prompt.pairs)
        self.prompt = prompt

    @classmethod
    def of_training_file(cls, path: str, config: PromptConfig, columns: tuple[str, ...] = ()) -> "PromptClassification":
        return cls(read_prompt(config.prompt_path, config.prompt_id))

    def of_texts(self, first: Sequence[str], second: Sequence[str] | None, encoder: TextToRows) -> Examples:
        """The prompt of each text or pair, with the targets `mask` (N, P), the positions of the [MASK] tokens, and
        `answers` (N, C, P), the token ids of every label's answer, which end with IGNORED where others are longer.

        Raises:
            UserError: the answers are of no use with this vocabulary, or --seq_length is too small for the template.
        """
        answers = answer_ids(self.prompt, self.labels, encoder)
        texts = [tokenize_all(encoder.tokenizer, column) for column in (first, second or [])]
        rows, masks = build_prompts(self.prompt, texts[0], texts[1], answers.shape[1], encoder)
        every = np.broadcast_to(answers, (len(masks), *answers.shape))  # the same memory for all examples
        return Examples(rows, targets={"mask": masks, "answers": every})

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        return MaskedWords(replace(config, target=("mlm",), decoder=None), vocab_size)

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """The negative score of the correct answer, summed over rows; see `answer_scores`.

        Args:
            predicted: logits (B, P, V).
            batch: targets `answers` (B, C, P) and `label` (B,).
        """
        scores = answer_scores(predicted, batch.targets["answers"])
        return -scores.gather(1, batch.targets["label"][:, None]).sum()

    def outputs(self, predicted: Tensor, batch: Batch) -> list[np.ndarray]:
        """(C,) scores of the answers for each row."""
        return list(answer_scores(predicted.float(), batch.targets["answers"]).cpu().numpy())

    def settings(self) -> dict[str, Any]:
        prompt = self.prompt
        return {"prompt": {"id": prompt.name, "template": prompt.template, "answer_words": prompt.answers}}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "PromptClassification":
        prompt = settings["prompt"]
        return cls(Prompt(prompt["id"], prompt["template"], prompt["answer_words"]))

    def with_flags(self, flags: PromptInferConfig) -> "PromptClassification":
        if flags.prompt_id not in (None, self.prompt.name):
            raise UserError(f"--prompt_id {flags.prompt_id}: the model was trained with {self.prompt.name}")
        return self

    @classmethod
    def of_weights(cls, labels_num: int | None, flags: PromptInferConfig,
                   state: Mapping[str, Tensor]) -> "PromptClassification":
        """Also of a pretrained model, which then classifies without any training."""
        return cls(read_prompt(flags.prompt_path, flags.prompt_id or PromptConfig.prompt_id))

    @staticmethod
    def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """UER-py's `target.linear_1.weight` is our `target.mlm.linear_1.weight`, as a pretrained model has it."""
        return {re.sub(r"^target\.(?=(linear_\d|layer_norm)\.)", "target.mlm.", name): value
                for name, value in state.items()}


def answer_scores(logits: Tensor, answers: Tensor) -> Tensor:
    """The mean log-probability of the tokens of every answer.

    As in UER-py, the logits of entries that are no answer's token are multiplied by 0 before the softmax over the
    vocabulary. With the logits [3, 1, 2, 5] and the answers 0 and 2, the softmax is that of [3, 0, 2, 0].

    Args:
        logits: (B, P, V).
        answers: (B, C, P) int64, the same for every row; IGNORED after the end of an answer.

    Returns:
        (B, C)
    """
    real = answers >= 0  # (B, C, P)
    index = answers.clamp(min=0).transpose(1, 2)  # (B, P, C)
    used = torch.zeros_like(logits).scatter_reduce(2, index, real.transpose(1, 2).to(logits), "amax")  # (B, P, V)
    each = (logits * used).log_softmax(-1).gather(2, index).transpose(1, 2)  # (B, C, P)
    return (each * real).sum(-1) / real.sum(-1)


def read_prompt(path: str, name: str) -> Prompt:
    """The prompt `name` of a file.

    Raises:
        UserError: the file has no such prompt, or it is none.
    """
    path = find_config(path)
    content = read_json(path)
    if not isinstance(content, dict) or name not in content:
        known = shorten(list(content)) if isinstance(content, dict) else "none"
        raise UserError(f"--prompt_id {name}: not in {path}; it has: {known}")
    where = f"{path}: '{name}'"
    answers = member(content[name], "answer_words", dict, where)
    prompt = Prompt(name, member(content[name], "template", str, where), answers)
    counts = [prompt.parts.count(part) for part in (TEXT_A, ANSWER, TEXT_B)]
    if counts[:2] != [1, 1] or counts[2] > 1:
        raise UserError(f"{where}: the template must have {TEXT_A} and {ANSWER} once, and {TEXT_B} at most once")
    if prompt.pairs and prompt.template.index(TEXT_B) < prompt.template.index(TEXT_A):
        raise UserError(f"{where}: {TEXT_A} must stand before {TEXT_B}")
    if len(answers) < 2 or not all(isinstance(answer, str) for answer in answers.values()):
        raise UserError(f"{where}: 'answer_words' must give a text for each of at least two labels")
    return prompt


def answer_ids(prompt: Prompt, labels: LabelSet, encoder: TextToRows) -> np.ndarray:
    """The tokens of every label's answer, int64 (C, P), with IGNORED after the end of shorter ones.

    Raises:
        UserError: an answer has no tokens or one that the vocabulary lacks, or two labels have the same.
    """
    found: dict[tuple[int, ...], str] = {}
    for label in labels.names:
        answer = prompt.answers[label]
        ids = tuple(encoder.tokenizer.encode(answer))
        if not ids or encoder.tokenizer.vocab.unk_id in ids:
            raise UserError(f"prompt '{prompt.name}': the vocabulary cannot express the answer '{answer}'")
        if ids in found:
            raise UserError(f"prompt '{prompt.name}': labels {found[ids]} and {label} have the same answer")
        found[ids] = label
    longest = max(map(len, found))
    return np.array([[*ids, *[IGNORED] * (longest - len(ids))] for ids in found])


def build_prompts(prompt: Prompt, first: Ragged, second: Ragged, masks_num: int,
                  encoder: TextToRows) -> tuple[Sequences, np.ndarray]:
    """The rows [CLS] template [SEP] with the texts in it, and the positions of the [MASK] tokens, int64 (N, P).

    A row that is too long loses tokens of `text_b` first.

    Args:
        first, second: token ids of the texts; `second` is empty where the template has no [TEXT_B].
        masks_num: how many [MASK] stand for [ANS].
    """
    vocab = encoder.tokenizer.vocab
    fixed = {part: encoder.tokenizer.encode(part) for part in prompt.parts if part not in (TEXT_A, TEXT_B)}
    fixed[ANSWER] = [vocab.special_id("mask")] * masks_num
    room = encoder.seq_length - 2 - prompt.pairs - sum(len(fixed.get(part, ())) for part in prompt.parts)
    if room < 1:
        raise UserError(f"--seq_length {encoder.seq_length}: no room for a text in the prompt '{prompt.name}'; "
                        f"{encoder.seq_length + 1 - room} is the least")
    rows, masks = [], np.empty((len(first), masks_num), np.int64)
    way = "first" if encoder.truncation == "head" else encoder.truncation
    for number in range(len(first)):
        text_a = keep(first[number], room, way)
        texts = {TEXT_A: [*text_a, *[vocab.sep_id] * prompt.pairs]}
        if prompt.pairs:
            texts[TEXT_B] = keep(second[number], room - len(text_a), way)
        row = [vocab.cls_id]
        for part in prompt.parts:
            if part == ANSWER:
                masks[number] = len(row) + np.arange(masks_num)
            row.extend(texts[part] if part in texts else fixed[part])
        rows.append(np.array([*row, vocab.sep_id]))
    tokens = Ragged.of(rows)
    return Sequences(tokens, np.diff(tokens.offsets)), masks
