"""Which positions an MLM row predicts and what stands in their place: functions of a row's tokens and its key.

A row of n tokens ([CLS] and [SEP] counted) predicts `budget(n)` = max(1, round(0.15 n)) of them, never more than it has
besides [CLS] and [SEP]. Python's `round` goes to the even neighbour at one half: budget(10) = 2, budget(30) = 4.
Of the predicted tokens 80% become [MASK], 10% any entry but a special one, 10% stay.

Every position of a row has a hash of the row's key and its own number; the hashes put the positions in an order.

- tokens: the first positions of that order; exactly the budget.
- spans: each position is an anchor in its turn, with a length from the geometric distribution, cut at the next special
  token and at what is left of the budget; positions that an earlier span has taken are passed over; exactly the budget.
  One draw of the 80/10/10 serves a whole span.
- whole words: words in the order of their first positions; one that does not fit into what is left of the budget is
  passed over. Up to the budget; if not one word fits, the first token of the first word, so that every row has
  something to predict.

All is integer tensor arithmetic of fixed shapes: the same bits on the CPU and on a GPU, and nothing waits for a device.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from uer.config import MaskingConfig
from uer.data.batch import IGNORED
from uer.data.draws import GOLDEN, MASK
from uer.data.hashing import below, mix_
from uer.errors import UserError

FRACTION_PREDICTED = 0.15
MASKED_BELOW = round(0.8 * (1 << 32))
MASKED_OR_RANDOM_BELOW = round(0.9 * (1 << 32))
WORDS_TRIED = 2
"""How many words, times the widest budget, a row tries before it is content with what it has."""

# What a hash is drawn for; it keeps the draws of one row apart.
ORDER, LENGTH, KIND, REPLACEMENT = range(1, 5)


def budget(tokens: int) -> int:
    """How many tokens a row of `tokens` tokens predicts."""
    return max(1, round(FRACTION_PREDICTED * tokens))


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
    span_bounds: Tensor
    """(longest span - 1,) a span is longer than i + 1 when its hash is at least span_bounds[i]."""
    positions: Tensor
    """(S,) 0, 1, 2, ..."""

    @property
    def predictions(self) -> int:
        """P, the width of the labels."""
        return budget(self.seq_length)

    def __call__(self, tokens: Tensor, real: Tensor, lengths: Tensor, keys: Tensor,
                 word_start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mask rows in place.

        Args:
            tokens: (R, S) int64 token ids, which become the masked ones.
            real: (R, S) bool, false on padding.
            lengths: (R,) int64, how many positions of each row are real.
            keys: (R,) int64 below 2^32.
            word_start: (R, S), not 0 where a token begins a word; needed for whole words.

        Returns:
            positions (R, P), labels (R, P) with -100 (at position 0) where a row predicts fewer than P tokens.
        """
        keys = keys[:, None]
        maskable = real.clone()
        for special in self.kept_apart:
            maskable &= tokens != special
        bits = self.seq_length.bit_length()
        hashes = _draw(ORDER, keys, self.positions).bitwise_left_shift_(bits).bitwise_or_(self.positions)
        wanted = self.budgets[lengths][:, None]
        if self.config.whole_word_masking:
            positions, draws = self._whole_words(maskable, word_start, hashes, wanted)
        elif self.config.span_masking:
            positions, draws = self._spans(maskable, hashes, wanted, keys)
        else:
            positions, draws = self._tokens(maskable, hashes, wanted)
        return self._replaced(tokens, positions, draws, keys)

    def _first(self, eligible: Tensor, hashes: Tensor, amount: int) -> Tensor:
        """(R, amount): the first eligible positions in the order of their hashes, then S.

        Args:
            eligible: (R, S) bool.
            hashes: (R, S) int64: a hash, and in its last bits the position.
        """
        bits = self.seq_length.bit_length()
        never = (1 << 32 + bits) + self.seq_length
        return _smallest(torch.where(eligible, hashes, never), amount).bitwise_and_((1 << bits) - 1)

    def _tokens(self, maskable: Tensor, hashes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Choose single tokens.

        Args:
            maskable: (R, S) bool.
            hashes: (R, S) int64, see `_first`.
            wanted: (R, 1) how many to choose at most.

        Returns:
            positions (R, P), S where there is none; and (R, P) the number that the 80/10/10 draw of each depends on.
        """
        positions = self._first(maskable, hashes, self.predictions)
        positions = torch.where(self.positions[:self.predictions] < wanted, positions, self.seq_length)
        return positions, positions

    def _spans(self, maskable: Tensor, hashes: Tensor, wanted: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Choose spans; as `_tokens`.

        P anchors always suffice: each of them brings at least itself, unless an earlier span has brought it. Every
        (anchor, offset) is a try, numbered in their order; a position belongs to the first try that reaches it.
        """
        rows, amount, longest = len(maskable), self.predictions, self.config.span_max_length
        anchors = self._first(maskable, hashes, amount)  # (R, P)
        lengths = 1 + torch.bucketize(_draw(LENGTH, keys, anchors), self.span_bounds, right=True)[:, :, None]
        offsets = torch.arange(longest, device=keys.device)
        # No two neighbours have the same number when a special token stands between them, or is one of them.
        numbers = torch.nn.functional.pad((~maskable).cumsum(dim=1), (0, longest), value=-1)  # (R, S + longest)
        reached = anchors[:, :, None] + offsets  # (R, P, longest)
        inside = numbers.gather(1, reached.view(rows, -1)).view_as(reached) == numbers.gather(1, anchors)[:, :, None]
        inside &= (offsets < lengths) & (anchors < self.seq_length)[:, :, None]
        inside = inside.view(rows, -1)
        reached = torch.where(inside, reached.view(rows, -1), self.seq_length)
        tries = torch.arange(amount * longest, device=keys.device).expand(rows, -1)
        first = torch.full((rows, self.seq_length + 1), amount * longest, device=keys.device)
        first.scatter_reduce_(1, reached, tries, "amin")
        fresh = inside & (first.gather(1, reached) == tries)
        ranks = fresh.cumsum(dim=1) - 1
        chosen = fresh & (ranks < wanted)
        base = self.seq_length + 1
        both = reached + (anchors * base)[:, :, None].expand(-1, -1, longest).reshape(rows, -1)
        both = self._compacted(chosen, ranks, both)
        return both % base, both // base

    def _whole_words(self, maskable: Tensor, word_start: Tensor, hashes: Tensor,
                     wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Choose whole words; as `_tokens`.

        A token behind a special one, or behind the cut before a row, begins a word whatever is stored.
        """
        begins = maskable & ~(torch.nn.functional.pad(maskable[:, :-1], (1, 0)) & (word_start == 0))
        word = torch.where(maskable, begins.cumsum(dim=1) - 1, self.seq_length)
        word = torch.nn.functional.pad(word, (0, 1), value=self.seq_length)  # (R, S + 1)
        sizes = torch.zeros_like(word).scatter_add_(1, word, torch.ones_like(word))
        sizes[:, self.seq_length] = self.seq_length
        firsts = self._first(begins, hashes, min(self.seq_length, WORDS_TRIED * self.predictions))
        order = word.gather(1, firsts)
        left, fitting = wanted.squeeze(1), []
        for size in sizes.gather(1, order).t().contiguous():
            fits = size <= left
            left = left - size * fits
            fitting.append(fits)
        taken = torch.zeros_like(word).scatter_(1, order, torch.stack(fitting, dim=1).long())
        chosen = maskable & (taken.gather(1, word[:, :-1]) == 1)
        ranks = chosen.cumsum(dim=1) - 1
        positions = self._compacted(chosen, ranks, self.positions.expand_as(chosen))
        positions[:, 0] = torch.where(ranks[:, -1] >= 0, positions[:, 0], firsts[:, 0])
        return positions, positions

    def _compacted(self, chosen: Tensor, ranks: Tensor, values: Tensor) -> Tensor:
        """(R, P): the chosen values (R, N) at their ranks, S where there is none."""
        table = torch.full((len(chosen), self.predictions + 1), self.seq_length, device=chosen.device)
        return table.scatter_(1, torch.where(chosen, ranks, self.predictions), values)[:, :self.predictions]

    def _replaced(self, tokens: Tensor, positions: Tensor, draws: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Put [MASK], another entry or the same token at the positions of `tokens`; -> positions, labels."""
        chosen = positions < self.seq_length
        positions = torch.where(chosen, positions, 0)
        originals = tokens.gather(1, positions)
        kind = _draw(KIND, keys, draws)
        random = below(_draw(REPLACEMENT, keys, positions), self.entries).add_(1)
        for special in self.never_drawn:
            random += random >= special
        put = torch.where(kind < MASKED_OR_RANDOM_BELOW, random, originals)
        put.masked_fill_(kind < MASKED_BELOW, self.mask_id)
        # Where there is nothing to predict the row's first replacement is written again: no two writes differ.
        put = torch.where(chosen, put, torch.where(chosen[:, :1], put[:, :1], originals[:, :1]))
        tokens.scatter_(1, torch.where(chosen, positions, positions[:, :1]), put)
        return positions, torch.where(chosen, originals, IGNORED)


def _draw(purpose: int, keys: Tensor, numbers: Tensor) -> Tensor:
    """A hash for each of a row's small numbers: keys (R, 1), numbers (R, N) or (N,) -> (R, N) int64 below 2^32."""
    return mix_((mix_(keys + purpose * GOLDEN & MASK) + numbers).bitwise_and_(MASK))


def _smallest(values: Tensor, amount: int) -> Tensor:
    """The smallest values of each row, ascending; `values` may be reordered.

    No two values of interest are equal, so there is one answer; numpy finds it several times faster than torch.
    """
    if values.device.type != "cpu":
        return values.topk(amount, largest=False, sorted=True).values
    array = values.numpy()
    array.partition(amount - 1, axis=1)
    return torch.from_numpy(np.sort(array[:, :amount], axis=1))


def masker(config: MaskingConfig, seq_length: int, vocab_size: int, special_ids: Mapping[str, int],
           device: torch.device) -> Masker:
    """The masker of these settings, its tables on `device`.

    Args:
        special_ids: the ids of pad, cls, sep and mask; other roles are passed over.

    Raises:
        UserError: the vocabulary has nothing but special entries.
    """
    never_drawn = tuple(sorted({special_ids[role] for role in ("cls", "sep", "mask", "pad")} - {0}))
    entries = vocab_size - 1 - len(never_drawn)
    if entries < 1:
        raise UserError(f"a vocabulary of {vocab_size} entries has none that could replace a token")
    return Masker(
        config, seq_length, special_ids["mask"], (special_ids["cls"], special_ids["sep"]), never_drawn, entries,
        budgets=torch.tensor([budget(length) for length in range(seq_length + 1)], device=device),
        span_bounds=torch.tensor(span_bounds(config.span_geo_prob, config.span_max_length), dtype=torch.int64,
                                 device=device),
        positions=torch.arange(seq_length, device=device))


def span_bounds(probability: float, longest: int) -> list[int]:
    """Share of spans of at most 1, 2, ..., longest - 1 tokens, in 2^-32: a geometric distribution cut off at `longest`.

    span_bounds(0.5, 3) = [4/7, 6/7] * 2^32
    """
    whole = 1.0 - (1.0 - probability) ** longest
    return [round((1.0 - (1.0 - probability) ** length) / whole * (1 << 32)) for length in range(1, longest)]
