"""Which positions an MLM row predicts and what stands in their place: functions of a row's tokens and its key.

A row of n tokens ([CLS] and [SEP] counted) predicts `budget(n)` = max(1, round(0.15 n)) of them, never more than it has
besides [CLS] and [SEP]. Python's `round` goes to the even neighbour at one half: budget(10) = 2, budget(30) = 4.
Of the predicted tokens 80% become [MASK], 10% any entry but a special one, 10% stay.

- tokens: the first places of a keyed shuffle of the row's maskable positions; exactly the budget.
- spans: anchors in the order of the shuffle, each with a length from the geometric distribution, cut at the next
  special token and at what is left of the budget; positions that an earlier span has taken are passed over; exactly the
  budget. One draw of the 80/10/10 serves a whole span.
- whole words: words in the order of a shuffle; one that does not fit into what is left of the budget is passed over.
  Up to the budget; if not one word fits, a single token, so that every row has something to predict.

All is integer tensor arithmetic of fixed shapes: the same bits on the CPU and on a GPU, and nothing waits for a device.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from uer.config import MaskingConfig
from uer.data.hashing import GOLDEN, MASK, below, grid_width, mix, shuffled
from uer.errors import UserError

SHARE_PREDICTED = 0.15
SHARE_MASKED = round(0.8 * (1 << 32))
SHARE_MASKED_OR_RANDOM = round(0.9 * (1 << 32))
IGNORED = -100
WORDS_TRIED = 2
"""How many words, times the widest budget, a row tries before it is content with what it has."""

# What a hash is drawn for; it keeps the draws of one row apart.
ORDER, LENGTH, KIND, REPLACEMENT = range(1, 5)


def budget(tokens: int) -> int:
    """How many tokens a row of `tokens` tokens predicts."""
    return max(1, round(SHARE_PREDICTED * tokens))


@dataclass(frozen=True)
class Masker:
    """Masks rows of one shape and vocabulary; see `masker`."""

    config: MaskingConfig
    seq_length: int
    mask_id: int
    kept_apart: tuple[int, ...]
    """[CLS] and [SEP], which are never predicted."""
    never_drawn: tuple[int, ...]
    """Ids that no random replacement takes, ascending; id 0 is the first of them."""
    entries: int
    """How many ids a random replacement may take."""
    budgets: Tensor
    """(S + 1,) budget of a row of each length."""
    widths: Tensor
    """(S + 1,) `grid_width` of each length."""
    span_bounds: Tensor
    """(longest span - 1,) a span is longer than i + 1 when its hash is at least span_bounds[i]."""
    positions: Tensor
    """(S,) 0, 1, 2, ..."""

    @property
    def predictions(self) -> int:
        """P, the width of the labels."""
        return budget(self.seq_length)

    def __call__(self, tokens: Tensor, lengths: Tensor, keys: Tensor,
                 word_start: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Mask rows.

        Args:
            tokens: (R, S) int64 token ids; behind a row's length stands anything.
            lengths: (R,) int64.
            keys: (R,) int64 below 2^32.
            word_start: (R, S), not 0 where a token begins a word; needed for whole words.

        Returns:
            src (R, S) the masked tokens, positions (R, P), labels (R, P) with -100 (at position 0) where a row predicts
            fewer than P tokens.
        """
        keys = keys[:, None]
        maskable = self.positions < lengths[:, None]
        for special in self.kept_apart:
            maskable &= tokens != special
        ranks = maskable.cumsum(dim=1) - 1
        counts = ranks[:, -1:] + 1
        wanted = torch.minimum(self.budgets[lengths][:, None], counts)
        places = self._compacted(maskable, ranks, self.positions, self.seq_length)
        if self.config.whole_word_masking:
            positions, draws = self._whole_words(maskable, word_start, places, wanted, keys)
        elif self.config.span_masking:
            positions, draws = self._spans(places, counts, wanted, keys)
        else:
            positions, draws = self._tokens(places, counts, wanted, keys)
        return self._replaced(tokens, positions, draws, keys)

    def _compacted(self, chosen: Tensor, ranks: Tensor, values: Tensor, width: int) -> Tensor:
        """The values of the chosen elements at their ranks, one element wider than `width`; S where there is none.

        Args:
            chosen: (R, N) bool.
            ranks: (R, N) int64: each chosen element's number among the chosen, below `width`.
            values: (R, N) or (N,) int64.
        """
        table = torch.full((len(chosen), width + 1), self.seq_length, device=chosen.device)
        table.scatter_(1, torch.where(chosen, ranks, width), values.expand_as(chosen))
        table[:, -1] = self.seq_length
        return table

    def _shuffle(self, amount: int, counts: Tensor, keys: Tensor) -> Tensor:
        """(R, amount): the first places of each row's shuffle of 0 ... counts - 1; behind `counts`, the last again."""
        counts = counts.clamp(min=1)
        index = torch.minimum(self.positions[:amount], counts - 1)
        return shuffled(index, counts, self.widths[counts], _row_key(ORDER, keys))

    def _tokens(self, places: Tensor, counts: Tensor, wanted: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Choose single tokens.

        Args:
            places: (R, S + 1) the maskable positions, then S.
            counts: (R, 1) how many they are.
            wanted: (R, 1) how many to choose.
            keys: (R, 1).

        Returns:
            positions (R, P), S where there is none; and (R, P) the number that the 80/10/10 draw of each depends on.
        """
        positions = places.gather(1, self._shuffle(self.predictions, counts, keys))
        positions = torch.where(self.positions[:self.predictions] < wanted, positions, self.seq_length)
        return positions, positions

    def _spans(self, places: Tensor, counts: Tensor, wanted: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Choose spans; as `_tokens`.

        P anchors always suffice: each of them brings at least itself, unless an earlier span has brought it. Every
        (anchor, offset) is a try, numbered in their order; a position belongs to the first try that reaches it.
        """
        rows, amount, longest = len(places), self.predictions, self.config.span_max_length
        order = self._shuffle(amount, counts, keys)[:, :, None]
        anchors = places.gather(1, order.squeeze(2))[:, :, None]
        draws = mix(_row_key(LENGTH, keys)[:, :, None] + anchors & MASK)
        lengths = 1 + (draws >= self.span_bounds).sum(dim=2, keepdim=True)
        offsets = torch.arange(longest, device=places.device)
        reached = anchors + offsets
        ahead = torch.minimum(order + offsets, counts[:, :, None]).view(rows, -1)
        # A span goes on while the maskable tokens do; where a special one stands, the next maskable place is farther.
        inside = (offsets < lengths) & (self.positions[:amount, None] < counts[:, :, None])
        inside &= places.gather(1, ahead).view_as(reached) == reached
        inside = inside.view(rows, -1)
        reached = torch.where(inside, reached.view(rows, -1), self.seq_length)
        tries = torch.arange(amount * longest, device=places.device).expand(rows, -1)
        first = torch.full_like(places, amount * longest).scatter_reduce_(1, reached, tries, "amin")
        fresh = inside & (first.gather(1, reached) == tries)
        ranks = fresh.cumsum(dim=1) - 1
        chosen = fresh & (ranks < wanted)
        positions = self._compacted(chosen, ranks, reached, amount)[:, :amount]
        spans = self._compacted(chosen, ranks, anchors.expand(-1, -1, longest).reshape(rows, -1), amount)[:, :amount]
        return positions, spans

    def _whole_words(self, maskable: Tensor, word_start: Tensor, places: Tensor, wanted: Tensor,
                     keys: Tensor) -> tuple[Tensor, Tensor]:
        """Choose whole words; as `_tokens`.

        A token behind a special one, or behind the cut before a row, begins a word whatever is stored.
        """
        continues = torch.nn.functional.pad(maskable[:, :-1], (1, 0)) & (word_start == 0)
        word = (maskable & ~continues).cumsum(dim=1) - 1
        words = word[:, -1:] + 1
        word = torch.where(maskable, word, self.seq_length)
        sizes = torch.zeros_like(places).scatter_add_(1, word, maskable.long())
        tried = min(self.seq_length, WORDS_TRIED * self.predictions)
        order = self._shuffle(tried, words, keys)
        order = torch.where(self.positions[:tried] < words, order, self.seq_length)
        sizes = sizes.gather(1, order)
        left, fitting = wanted, []
        for size in sizes.split(1, dim=1):
            fits = size <= left
            left = left - size * fits
            fitting.append(fits)
        order = torch.where(torch.cat(fitting, dim=1), order, self.seq_length)
        taken = torch.zeros_like(places).scatter_(1, order, 1)
        chosen = maskable & (taken.gather(1, word) == 1)
        ranks = chosen.cumsum(dim=1) - 1
        positions = self._compacted(chosen, ranks, self.positions, self.predictions)[:, :-1]
        single, _ = self._tokens(places, maskable.sum(dim=1, keepdim=True), wanted.clamp(max=1), keys)
        positions = torch.where(ranks[:, -1:] >= 0, positions, single)
        return positions, positions

    def _replaced(self, tokens: Tensor, positions: Tensor, draws: Tensor,
                  keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Put [MASK], another entry or the same token at the positions; -> src, positions, labels."""
        chosen = positions < self.seq_length
        positions = torch.where(chosen, positions, 0)
        originals = tokens.gather(1, positions)
        kind = mix(_row_key(KIND, keys) + draws & MASK)
        random = below(mix(_row_key(REPLACEMENT, keys) + positions & MASK), self.entries) + 1
        for special in self.never_drawn:
            random += random >= special
        put = torch.where(kind < SHARE_MASKED, self.mask_id,
                          torch.where(kind < SHARE_MASKED_OR_RANDOM, random, originals))
        put = torch.where(chosen, put, originals)
        # Where there is nothing to predict the row's first replacement is written again: no two writes differ.
        src = tokens.scatter(1, torch.where(chosen, positions, positions[:, :1]), torch.where(chosen, put, put[:, :1]))
        return src, positions, torch.where(chosen, originals, IGNORED)


def _row_key(purpose: int, keys: Tensor) -> Tensor:
    """Where a row's hashes for one purpose begin; a small number is added and the sum mixed again."""
    return mix(keys + purpose * GOLDEN & MASK)


@functools.lru_cache(maxsize=16)
def masker(config: MaskingConfig, seq_length: int, vocab_size: int, special_ids: tuple[tuple[str, int], ...],
           device: torch.device) -> Masker:
    """The masker of these settings, its tables on `device`.

    Args:
        special_ids: (name, id) for pad, cls, sep and mask; other names are passed over.

    Raises:
        UserError: the vocabulary has nothing but special entries.
    """
    ids = dict(special_ids)
    never_drawn = tuple(sorted({ids["cls"], ids["sep"], ids["mask"], ids["pad"]} - {0}))
    entries = vocab_size - 1 - len(never_drawn)
    if entries < 1:
        raise UserError(f"a vocabulary of {vocab_size} entries has none that could replace a token")
    lengths = range(seq_length + 1)
    return Masker(
        config, seq_length, ids["mask"], (ids["cls"], ids["sep"]), never_drawn, entries,
        budgets=torch.tensor([budget(length) for length in lengths], device=device),
        widths=torch.tensor([grid_width(length) for length in lengths], device=device),
        span_bounds=torch.tensor(span_bounds(config.span_geo_prob, config.span_max_length), dtype=torch.int64,
                                 device=device),
        positions=torch.arange(seq_length, device=device))


def span_bounds(probability: float, longest: int) -> list[int]:
    """Share of spans of at most 1, 2, ..., longest - 1 tokens, in 2^-32: a geometric distribution cut off at `longest`.

    span_bounds(0.5, 3) = [4/7, 6/7] * 2^32
    """
    whole = 1.0 - (1.0 - probability) ** longest
    return [round((1.0 - (1.0 - probability) ** length) / whole * (1 << 32)) for length in range(1, longest)]
