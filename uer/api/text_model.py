"""A loaded model: it computes sentence vectors, makes predictions and fills in masked words."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uer.api.cloze import guess, make_cloze
from uer.api.rows import pooled_rows
from uer.backbone import Backbone
from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import Batch, collate, evaluation_batches
from uer.finetuning.heads import pool
from uer.finetuning.inputs import Prediction, require_text
from uer.finetuning.task import Task, TextToRows
from uer.model import Model
from uer.tokenizers import Tokenizer

POOLINGS = ("first", "mean", "max", "last")
TEXTS_AT_ONCE = 8192
"""Inputs that are tokenized and sorted by length together."""


@dataclass(frozen=True)
class MaskedWord:
    """Holds an entry of the vocabulary that may replace a [MASK], and its probability."""

    token: str
    probability: float


@dataclass(frozen=True)
class TextModel:
    """Computes vectors and predictions; `uer.load` returns it.

    Attributes:
        path: where the model was loaded from.
        model: the torch module, in evaluation mode.
        config: the model's architecture.
        tokenizer: converts text to token ids.
        device: the device of the model.
        task: the task of a fine-tuned model; None for a pretrained model.
        encoder: converts the task's texts to rows; None for a pretrained model.
        precision: fp32 or bf16.
    """

    path: str
    model: Backbone
    config: ModelConfig
    tokenizer: Tokenizer
    device: torch.device
    task: Task | None = None
    encoder: TextToRows | None = None
    precision: str = "fp32"

    def __repr__(self) -> str:
        kind = f"fine-tuned on {self.task.name}" if self.task else "pretrained"
        return (f"TextModel({self.path!r}: {kind}, {self.config.layers_num} layers, hidden {self.config.hidden_size}, "
                f"vocabulary {len(self.tokenizer.vocab)}, on {self.device})")

    @torch.inference_mode()
    def encode(self, texts: Iterable[str], pooling: str = "first", batch_size: int = 64, normalize: bool = False,
               seq_length: int | None = None) -> np.ndarray:
        """Compute a vector for each text from the hidden states of the last layer.

        Args:
            texts: any number of texts; a single string is read as a list of one text.
            pooling: "first" ([CLS]), "mean" and "max" over all tokens with [CLS] and [SEP], or "last" ([SEP]).
            batch_size: rows in a batch.
            normalize: divide each vector by its Euclidean norm.
            seq_length: maximum tokens in a row; longer texts are cut, and keep [SEP]. By default the value of the
                fine-tuning, or the model's maximum.

        Returns:
            (texts, hidden size) float32.

        Raises:
            UserError: an argument has another type or value.
        """
        if pooling not in POOLINGS:
            raise UserError(f"encode: pooling '{pooling}' is unknown; choose from: {', '.join(POOLINGS)}")
        rows, longest = _as_list(texts), self._longest(seq_length)
        _require_positive(batch_size, "encode: batch_size")
        for at, text in enumerate(rows):
            require_text(text, at, "encode")
        parts = [np.empty((0, self.config.hidden_size), np.float32)]
        for start in range(0, len(rows), TEXTS_AT_ONCE):
            ids, offsets = self.tokenizer.encode_lines(
                "".join(text.replace("\n", " ") + "\n" for text in rows[start:start + TEXTS_AT_ONCE]))
            parts.append(pooled_rows(ids, offsets, longest, batch_size, self.tokenizer.vocab,
                                     lambda batch: self._pool(batch, pooling), self.config.hidden_size))
        vectors = np.concatenate(parts)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) if normalize else vectors

    @torch.inference_mode()
    def predict(self, texts: Iterable[Any], batch_size: int = 64) -> list[Prediction]:
        """Predict the label, the number, the tags or the answer for each input with a fine-tuned model.

        Args:
            texts: texts, pairs of texts, or what the task reads (see the table in `uer.finetuning.inputs`); a single
                string is read as a list of one text. Long texts are cut as in the model's fine-tuning.
            batch_size: rows in a batch.

        Returns:
            One `Prediction` for each input, in order.

        Raises:
            UserError: the model is not fine-tuned, or an input is not what its task reads.
        """
        if self.task is None or self.encoder is None:
            raise UserError(f"{self.path}: a pretrained model makes no predictions; fine-tune it first "
                            "(for instance with finetune/run_classifier.py)")
        inputs, found = _as_list(texts), []
        _require_positive(batch_size, "predict: batch_size")
        for start in range(0, len(inputs), TEXTS_AT_ONCE):
            piece = inputs[start:start + TEXTS_AT_ONCE]
            examples = self.task.input_examples(piece, self.encoder)
            outputs: dict[int, np.ndarray] = {}
            for chosen in evaluation_batches(examples, max(1, batch_size // examples.ways)):
                batch = collate(examples, chosen, self.tokenizer.vocab.pad_id).to(self.device)
                with self._autocast():
                    predicted = self.model(batch)
                outputs.update(zip(chosen.tolist(), self.task.outputs(predicted, batch)))
            found += self.task.input_predictions([outputs[at] for at in range(len(examples))], examples, piece)
        return found

    @torch.inference_mode()
    def fill_mask(self, text: str | Iterable[str], top_k: int = 5, batch_size: int = 64) -> list:
        """Predict the most probable entries of the vocabulary for each [MASK].

        Args:
            text: a text with at least one [MASK], or several texts. If a text is longer than the model's maximum, the
                tokens around its first mask are read.
            top_k: number of entries for each mask.
            batch_size: rows in a batch.

        Returns:
            For one text with one mask, a list of `MaskedWord`, the most probable first; with several masks, a list of
            such lists, one for each mask; for several texts, a list with one of these for each text.

        Raises:
            UserError: the model has no mlm head, or a text has no mask.
        """
        if not (isinstance(self.model, Model) and "mlm" in self.model.target):
            raise UserError(f"{self.path}: the model has no mlm head, so it cannot fill in masked words"
                            + (f"; it is fine-tuned on '{self.task.name}'" if self.task else ""))
        _require_positive(top_k, "fill_mask: top_k")
        _require_positive(batch_size, "fill_mask: batch_size")
        texts, mask = _as_list(text), self.tokenizer.vocab.special_token("mask")
        for at, item in enumerate(texts):
            require_text(item, at, "fill_mask")
            if mask not in item:
                raise UserError(f"fill_mask: input {at} has no {mask}")
        clozes = [make_cloze(item, self.tokenizer, self._longest(None), torch.Generator()) for item in texts]
        order = sorted(range(len(clozes)), key=lambda at: len(clozes[at].ids))
        found: dict[int, list[list[MaskedWord]]] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start:start + batch_size]
            with self._autocast():
                guesses = guess(self.model, [clozes[at] for at in chosen], min(top_k, len(self.tokenizer.vocab)))
            found.update(zip(chosen, ([self._words(each) for each in row] for row in guesses)))
        answers = [found[at][0] if len(found[at]) == 1 else found[at] for at in range(len(texts))]
        return answers[0] if isinstance(text, str) else answers

    def _words(self, guesses: Any) -> list[MaskedWord]:
        tokens = self.tokenizer.vocab.tokens
        return [MaskedWord(tokens[number], probability) for number, probability in zip(*guesses)]

    def _pool(self, batch: Batch, pooling: str) -> Tensor:
        with self._autocast():
            return pool(self.model, batch.to(self.device), pooling)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _longest(self, seq_length: int | None) -> int:
        most = self.config.max_seq_length
        if seq_length is None:
            return min(self.encoder.seq_length, most) if self.encoder else most
        if not 3 <= seq_length <= most:
            raise UserError(f"encode: seq_length must lie between 3 and the model's {most}")
        return seq_length


def _as_list(texts: str | Iterable[Any]) -> Sequence[Any]:
    if isinstance(texts, (bytes, dict)) or not isinstance(texts, Iterable):
        raise UserError(f"texts must be a list of texts, not {type(texts).__name__}")
    return [texts] if isinstance(texts, str) else list(texts)


def _require_positive(value: int, what: str) -> None:
    if value < 1:
        raise UserError(f"{what} must be at least 1")
