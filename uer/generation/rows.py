"""Rows of text that grow token by token: the logits of the next token of each, with a cache and without.

`open_rows` chooses: a transformer keeps keys and values of the tokens before (`uer.layers.view.Cache`); other encoders
compute the whole row again in every step.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from uer.decoders import Decoder, DecoderCache
from uer.embeddings import EmbeddingSum
from uer.encoders import Encoder
from uer.generation.step import PlainStack, is_plain, output_layer
from uer.layers.layout import padded_layout
from uer.layers.linear import weight_and_bias
from uer.layers.view import Cache
from uer.model import Model
from uer.targets.lm import LmTarget


class Rows(Protocol):
    """R rows of text that grow token by token."""

    def start(self) -> Tensor:
        """The logits (R, V) of each row's first new token."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens (R,) int64, and return the logits (R, V) of what follows."""

    def select(self, rows: Tensor) -> None:
        """Keep rows (R,) int64 of the R, in this order, once or more often each; all from the same prompt as before."""


class CachedRows:
    """Rows of a transformer with a cache. The prompts go through the model's own forward, and new tokens through a
    `PlainStack` where that stands for it."""

    cache: Cache | DecoderCache

    def __init__(self, model: Model, embedding: EmbeddingSum, stack: Encoder | Decoder, most: int) -> None:
        """`embedding` and `stack` are the parts of the model that new tokens go through."""
        self.model, self.uses_plain, self.logits = model, is_plain(embedding, stack), _logits(model, most)
        self.plain: PlainStack | None = None

    def step(self, tokens: Tensor) -> Tensor:
        if not self.uses_plain:
            return self.forward(tokens)
        self.plain = self.plain or self.plain_stack()
        return self.logits(self.plain.step(tokens))

    def select(self, rows: Tensor) -> None:
        (self.plain or self.cache).select_rows(rows)

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """`step` by the model's own forward."""

    @abstractmethod
    def plain_stack(self) -> PlainStack:
        """One that goes on from the cache."""


class CausalRows(CachedRows):
    """Rows of a causal encoder with a cache. Shorter prompts have their padding in front:

        prompts [7, 8, 9] and [4]   ->   src [[7, 8, 9], [0, 0, 4]], starts [[0, 0, 0], [0, 0, 2]]
    """

    def __init__(self, model: Model, prompts: Sequence[Sequence[int]], beams: int, most: int) -> None:
        super().__init__(model, model.embedding, model.encoder, most)
        length, device = max(map(len, prompts)), _device(model)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)[:, None]
        columns = torch.arange(length, device=device)[None]
        self.src = torch.tensor([[0] * (length - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        self.seg = (columns >= length - lengths).long()
        self.first = (length - lengths).squeeze(1)  # (R,) the column of each row's first token
        self.beams, self.cache, self.room = beams, Cache(), length + most
        # A model with a prefix mask has learnt that what follows the prefix is segment 2.
        self.new_seg = 2 if model.config.mask == "causal_with_prefix" else 1

    def start(self) -> Tensor:
        columns = torch.arange(self.src.shape[1], device=self.src.device)
        starts = torch.where(columns >= self.first[:, None], self.first[:, None], 0)
        logits = self._forward(self.src, self.seg, starts)
        if self.beams > 1:
            each = torch.arange(len(logits), device=logits.device).repeat_interleave(self.beams)
            self.cache.select_rows(each)
            self.first, logits = self.first[each], logits[each]
        return logits

    def forward(self, tokens: Tensor) -> Tensor:
        src = tokens[:, None]
        return self._forward(src, torch.full_like(src, self.new_seg), self.first[:, None])

    def plain_stack(self) -> PlainStack:
        return PlainStack(self.model.embedding, self.model.encoder, self.cache, self.room, seg=self.new_seg,
                          first=self.first if self.first.any() else None)

    def _forward(self, src: Tensor, seg: Tensor, starts: Tensor) -> Tensor:
        """src, seg and starts (R, n) of the next n columns -> logits (R, V)"""
        layout = padded_layout(seg, starts, first=self.cache.length)
        hidden = self.model.encoder(self.model.embedding(src, layout), layout, cache=self.cache)
        return self.logits(layout.scatter(hidden)[:, -1])


class DecoderRows(CachedRows):
    """Rows of a decoder with a cache; the encoder has read the prompts."""

    def __init__(self, model: Model, prompts: Sequence[Sequence[int]], start_id: int, beams: int, most: int) -> None:
        super().__init__(model, model.tgt_embedding, model.decoder, most)
        src, seg = _padded(prompts, _device(model))
        memory = model.encode(src, seg).repeat_interleave(beams, 0)  # (R, S, H)
        self.memory_layout = padded_layout(seg.repeat_interleave(beams, 0))
        self.memory: Tensor | None = memory.flatten(0, 1)
        self.first = torch.full((len(memory),), start_id, device=src.device)
        self.cache, self.room = DecoderCache(), 1 + most

    def start(self) -> Tensor:
        return self.forward(self.first)

    def forward(self, tokens: Tensor) -> Tensor:
        tgt = tokens[:, None]
        layout = padded_layout(torch.ones_like(tgt), first=self.cache.length)
        hidden = self.model.decoder(self.model.tgt_embedding(tgt, layout), layout, self.memory, self.memory_layout,
                                    cache=self.cache)
        self.memory = None  # the cache has its keys and values
        return self.logits(hidden)

    def plain_stack(self) -> PlainStack:
        return PlainStack(self.model.tgt_embedding, self.model.decoder, self.cache.own, self.room,
                          memory=(self.cache.context, self.memory_layout.seg))


class WholeRows:
    """Rows of any model, computed anew in every step."""

    def __init__(self, model: Model, prompts: Sequence[Sequence[int]], start_id: int | None, beams: int) -> None:
        self.model, self.device = model, _device(model)
        self.prompts = [list(prompt) for prompt in prompts for _ in range(beams)]
        self.new: list[list[int]] = [[] for _ in self.prompts]
        self.start_id = start_id

    def start(self) -> Tensor:
        return self._with_decoder() if self.model.decoder else self._with_encoder()

    def step(self, tokens: Tensor) -> Tensor:
        self.new = [[*row, token] for row, token in zip(self.new, tokens.tolist())]
        return self.start()

    def select(self, rows: Tensor) -> None:
        self.new = [self.new[row] for row in rows.tolist()]

    def _with_encoder(self) -> Tensor:
        src, seg = _padded([prompt + new for prompt, new in zip(self.prompts, self.new)], self.device)
        if self.model.config.mask == "causal_with_prefix":
            prefix = torch.tensor([len(prompt) for prompt in self.prompts], device=self.device)[:, None]
            seg = torch.where(torch.arange(seg.shape[1], device=self.device) < prefix, seg, 2 * seg)
        hidden = self.model.encode_at(src, seg, (seg > 0).sum(1, keepdim=True) - 1)
        return self.model.target["lm"].logits(hidden[:, 0])

    def _with_decoder(self) -> Tensor:
        src, seg = _padded(self.prompts, self.device)
        tgt = torch.tensor([[self.start_id, *row] for row in self.new], device=self.device)
        layout, memory_layout = padded_layout(torch.ones_like(tgt)), padded_layout(seg)
        memory = self.model.encode(src, seg).flatten(0, 1)
        hidden = self.model.decoder(self.model.tgt_embedding(tgt, layout), layout, memory, memory_layout)
        return self.model.target["lm"].logits(layout.scatter(hidden)[:, -1])


def open_rows(model: Model, prompts: Sequence[Sequence[int]], start_id: int | None, beams: int, cached: bool,
              most: int) -> Rows:
    """The rows of these prompts, `beams` for each; arguments as those of `uer.generation.generate`."""
    if model.decoder is not None and cached:
        return DecoderRows(model, prompts, start_id, beams, most)
    if cached and model.encoder.has_cache:
        return CausalRows(model, prompts, beams, most)
    return WholeRows(model, prompts, start_id, beams)


def _logits(model: Model, steps: int) -> Callable[[Tensor], Tensor]:
    """A function (R, H) -> logits (R, V), for so many steps."""
    target = model.target["lm"]
    if type(target) is not LmTarget or torch.is_autocast_enabled(_device(model).type):
        return target.logits
    return output_layer(*weight_and_bias(target.output_layer), steps)


def _device(model: Model) -> torch.device:
    return next(model.parameters()).device


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and segments (R, S) of rows of different lengths, padded at their end."""
    length = max(map(len, rows))
    values = torch.tensor([list(row) + [0] * (length - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return values, (torch.arange(length, device=device) < lengths[:, None]).long()
