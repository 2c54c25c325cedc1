"""Masking: which positions of a row are predicted, and which tokens replace the predicted ones.

Both are functions of the row's tokens and its key, a 32-bit number. R rows of S positions are masked together, and at
most P = budget(S) positions of each are predicted.

A row of n tokens ([CLS] and [SEP] counted) predicts `budget(n)` = max(1, round(0.15 n)) of them, never more than it has
besides [CLS] and [SEP]. Python's `round` goes to the even neighbour at one half: budget(10) = 2, budget(30) = 4.
Of the predicted tokens 80% become [MASK], 10% a random entry that is not special, 10% stay as they are: the "80/10/10".
Both numbers are settings, `mask_rate` and `mask_token_rate`.

Each position of a row has a hash of the row's key and the position. Sorting by these hashes gives the row's positions
a random order, which the three strategies use:

- single tokens: the first positions of this order, exactly as many as the budget.
- spans: the positions are the first tokens (anchors) of spans, in this order. A span's length is drawn from a geometric
  distribution; the span ends early at a special token or when the budget is used up. Positions of an earlier span are
  skipped. Exactly as many positions as the budget; one draw of the 80/10/10 is used for a whole span.
- whole words: words in the order of their first positions. A word that is longer than what is left of the budget is
  skipped, so there may be fewer positions than the budget. If no word fits, the first token of the first word is
  predicted, so that every row predicts something.

Everything is integer arithmetic on tensors of fixed shapes: CPU and GPU give the same bits, and the host never waits
for a GPU.
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

WORDS_TRIED = 2
"""Whole words: the first WORDS_TRIED * P words of the random order are tried, whether or not they fill the budget."""

# The purposes of the hashes: each purpose gives the same row and position another hash.
ORDER, LENGTH, KIND, REPLACEMENT = range(1, 5)


def budget(tokens: int, rate: float = 0.15) -> int:
    """How many positions a row of `tokens` tokens predicts.

    >>> [budget(tokens) for tokens in (1, 10, 30, 128)]
    [1, 2, 4, 19]
    """
    return max(1, round(rate * tokens))


@dataclass(frozen=True)
class Masker:
    """Masks rows of one length and vocabulary; `masker` makes it."""

    config: MaskingConfig
    seq_length: int
    mask_id: int
    kept_apart: tuple[int, ...]
    """[CLS] and [SEP], which are never predicted."""
    never_drawn: tuple[int, ...]
    """Special ids that a random replacement must not be, ascending; id 0 is never drawn either."""
    entries: int
    """How many ids a random replacement can be."""
    budgets: Tensor
    """(S + 1,) int64: `budget(n)` at index n."""
    bounds: tuple[int, int]
    """A predicted token becomes [MASK] where its 32-bit hash is below the first, and random below the second."""
    span_bounds: Tensor
    """(span_max_length - 1,) int64: a span is longer than i + 1 tokens if its hash is at least span_bounds[i]."""
    positions: Tensor
    """(S,) 0, 1, 2, ..."""

    @property
    def predictions(self) -> int:
        """P, the width of the labels."""
        return budget(self.seq_length, self.config.mask_rate)

    def __call__(self, tokens: Tensor, real: Tensor, lengths: Tensor, keys: Tensor,
                 word_start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mask rows in place.

        Args:
            tokens: (R, S) int64 token ids, which are changed to the masked ones.
            real: (R, S) bool, false on padding.
            lengths: (R,) int64, number of tokens of each row.
            keys: (R,) int64 below 2^32, which all random choices depend on.
            word_start: (R, S), not 0 where a token begins a word; needed for whole words.

        Returns:
            positions (R, P) int64 and labels (R, P) int64. Where a row predicts fewer than P tokens, the label is -100
            and the position 0.
        """
        positions, draws = self.choose(tokens, real, lengths, keys, word_start)
        return self._replaced(tokens, positions, draws, keys[:, None])

    def choose(self, tokens: Tensor, real: Tensor, lengths: Tensor, keys: Tensor,
               word_start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Choose the positions that are predicted; arguments as for a call, and nothing is changed.

        Returns:
            positions (R, P), filled up with S; and (R, P) the numbers that the 80/10/10 draws depend on: equal numbers
            have the same draw.
        """
        keys = keys[:, None]  # (R, 1)
        maskable = real.clone()  # (R, S): tokens that may be predicted
        for special in self.kept_apart:
            maskable &= tokens != special
        # (R, S): a 32-bit hash and, in the lowest bits, the position, so that no two are equal.
        bits = self.seq_length.bit_length()
        hashes = draw(ORDER, keys, self.positions).bitwise_left_shift_(bits).bitwise_or_(self.positions)
        wanted = self.budgets[lengths][:, None]  # (R, 1)
        if self.config.whole_word_masking:
            return self._whole_words(maskable, word_start, hashes, wanted)
        if self.config.span_masking:
            return self._spans(maskable, hashes, wanted, keys)
        return self._tokens(maskable, hashes, wanted)

    def _first(self, eligible: Tensor, hashes: Tensor, amount: int) -> Tensor:
        """(R, amount) int64: the eligible positions with the smallest hashes, in the order of the hashes.

        A row with fewer than `amount` eligible positions is filled up with S: with amount 3 and S = 8, the eligible
        positions 2 and 5, of which 5 has the smaller hash, give [5, 2, 8].

        Args:
            eligible: (R, S) bool.
            hashes: (R, S) int64: a hash, and in the lowest bits the position.
        """
        bits = self.seq_length.bit_length()
        never = (1 << 32 + bits) + self.seq_length  # larger than every hash, with S in the lowest bits
        return _smallest(torch.where(eligible, hashes, never), amount).bitwise_and_((1 << bits) - 1)

    def _tokens(self, maskable: Tensor, hashes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Choose single tokens.

            [CLS] a b c d e f [SEP], random order of the positions 5 2 3 1 6 4, wanted 3  ->  positions [5, 2, 3]

        Args:
            maskable: (R, S) bool.
            hashes: (R, S) int64, see `_first`.
            wanted: (R, 1) int64: how many positions to choose at most.

        Returns:
            positions (R, P), filled up with S; and (R, P) the numbers that the 80/10/10 draws depend on: equal numbers
            have the same draw.
        """
        positions = self._first(maskable, hashes, self.predictions)
        positions = torch.where(self.positions[:self.predictions] < wanted, positions, self.seq_length)
        return positions, positions

    def _spans(self, maskable: Tensor, hashes: Tensor, wanted: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Choose spans; arguments and results as `_tokens`.

        The first P positions of the random order are the anchors, the first tokens of spans. P anchors are enough: each
        anchor gives a new position, itself, unless it already belongs to an earlier span. Each (anchor, offset) is a
        candidate, numbered anchor by anchor; a position belongs to the first candidate that reaches it.

            [CLS] a b c d e f [SEP], anchors 5 2 3 of lengths 2 3 1, wanted 3, longest span L = 3
            reached    5 6 7   2 3 4   3 4 5      anchor + offset
            inside     1 1 0   1 1 1   1 0 0      offset < length, and no special token on the way
            fresh      1 1 0   1 1 1   0 0 0      inside, and no earlier candidate reaches this position
            chosen     1 1 0   1 0 0   0 0 0      the first 3 fresh ones
            ->  positions [5, 6, 2], and for the draws their anchors [5, 5, 2]
        """
        rows, amount, longest = len(maskable), self.predictions, self.config.span_max_length
        anchors = self._first(maskable, hashes, amount)  # (R, P)
        lengths = 1 + torch.bucketize(draw(LENGTH, keys, anchors), self.span_bounds, right=True)[:, :, None]
        offsets = torch.arange(longest, device=keys.device)  # (L,)
        # How many unmaskable tokens stand up to each position: equal for two maskable positions without one between.
        numbers = torch.nn.functional.pad((~maskable).cumsum(dim=1), (0, longest), value=-1)  # (R, S + L)
        reached = anchors[:, :, None] + offsets  # (R, P, L)
        inside = numbers.gather(1, reached.view(rows, -1)).view_as(reached) == numbers.gather(1, anchors)[:, :, None]
        inside &= (offsets < lengths) & (anchors < self.seq_length)[:, :, None]
        inside = inside.view(rows, -1)  # (R, P * L), like everything about candidates from here on
        reached = torch.where(inside, reached.view(rows, -1), self.seq_length)
        candidates = torch.arange(amount * longest, device=keys.device).expand(rows, -1)
        first = torch.full((rows, self.seq_length + 1), amount * longest, device=keys.device)
        first.scatter_reduce_(1, reached, candidates, "amin")  # (R, S + 1): the first candidate of each position
        fresh = inside & (first.gather(1, reached) == candidates)
        ranks = fresh.cumsum(dim=1) - 1  # 0, 1, 2, ... at the fresh ones
        chosen = fresh & (ranks < wanted)
        # One number for a position and its anchor, so that both are moved together.
        base = self.seq_length + 1
        both = reached + (anchors * base)[:, :, None].expand(-1, -1, longest).reshape(rows, -1)
        both = self._compacted(chosen, ranks, both)  # (R, P)
        return both % base, both // base

    def _whole_words(self, maskable: Tensor, word_start: Tensor, hashes: Tensor,
                     wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Choose whole words; arguments and results as `_tokens`.

        The first token of a row, and one that follows a special token, begins a word whatever `word_start` says.

            [CLS] a b  c d  e [SEP] of the words ab, cd and e, random order cd e ab, wanted 3
            word       S 0 0 1 1 2 S   number of each position's word
            sizes      2 2 1           tokens of each word
            cd fits (1 token is left), e fits (0 are left), ab does not fit  ->  positions [3, 4, 5]
        """
        begins = maskable & ~(torch.nn.functional.pad(maskable[:, :-1], (1, 0)) & (word_start == 0))
        word = torch.where(maskable, begins.cumsum(dim=1) - 1, self.seq_length)
        word = torch.nn.functional.pad(word, (0, 1), value=self.seq_length)  # (R, S + 1); word S is no word
        sizes = torch.zeros_like(word).scatter_add_(1, word, torch.ones_like(word))  # (R, S + 1)
        sizes[:, self.seq_length] = self.seq_length  # word S never fits
        firsts = self._first(begins, hashes, min(self.seq_length, WORDS_TRIED * self.predictions))  # (R, W)
        order = word.gather(1, firsts)  # (R, W): the words to try, W of them
        left, fitting = wanted.squeeze(1), []
        for size in sizes.gather(1, order).t().contiguous():  # (R,): the size of each row's next word
            fits = size <= left
            left = left - size * fits
            fitting.append(fits)
        taken = torch.zeros_like(word).scatter_(1, order, torch.stack(fitting, dim=1).long())  # (R, S + 1), by word
        chosen = maskable & (taken.gather(1, word[:, :-1]) == 1)  # (R, S)
        ranks = chosen.cumsum(dim=1) - 1
        positions = self._compacted(chosen, ranks, self.positions.expand_as(chosen))
        # Where no word fits, ranks[:, -1] is -1: the first token of the first word is predicted.
        positions[:, 0] = torch.where(ranks[:, -1] >= 0, positions[:, 0], firsts[:, 0])
        return positions, positions

    def _compacted(self, chosen: Tensor, ranks: Tensor, values: Tensor) -> Tensor:
        """(R, P): the chosen ones of the values (R, N), each at the index that `ranks` (R, N) gives, filled up with S.

            P = 4, values 5 6 7 2, chosen 1 1 0 1, ranks 0 1 1 2  ->  [5, 6, 2, S]
        """
        # What is not chosen goes to an extra column P, which is cut off.
        table = torch.full((len(chosen), self.predictions + 1), self.seq_length, device=chosen.device)
        return table.scatter_(1, torch.where(chosen, ranks, self.predictions), values)[:, :self.predictions]

    def _replaced(self, tokens: Tensor, positions: Tensor, draws: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Replace the tokens (R, S) at `positions` (R, P) by [MASK], a random token or the same token.

        Args:
            draws: (R, P) the numbers that the 80/10/10 draws depend on.

        Returns:
            positions (R, P), with 0 instead of S, and labels (R, P).
        """
        chosen = positions < self.seq_length  # (R, P), like everything below
        positions = torch.where(chosen, positions, 0)
        originals = tokens.gather(1, positions)
        kind = draw(KIND, keys, draws)
        # A number from 1 to `entries`; each special id that it reaches moves it up by one. With the special ids 2 and 3
        # the numbers 1, 2, 3 become the ids 1, 4, 5.
        random = below(draw(REPLACEMENT, keys, positions), self.entries).add_(1)
        for special in self.never_drawn:
            random += random >= special
        masked_below, random_below = self.bounds
        put = torch.where(kind < random_below, random, originals)
        put.masked_fill_(kind < masked_below, self.mask_id)
        # Entries without a prediction write the row's first replacement once more: scatter_ gives a certain result only
        # if all values that are written to one position are equal.
        put = torch.where(chosen, put, torch.where(chosen[:, :1], put[:, :1], originals[:, :1]))
        tokens.scatter_(1, torch.where(chosen, positions, positions[:, :1]), put)
        return positions, torch.where(chosen, originals, IGNORED)


def draw(purpose: int, keys: Tensor, numbers: Tensor) -> Tensor:
    """Hashes of the rows' keys, a purpose and some numbers: keys (R, 1), numbers (R, N) or (N,) -> (R, N) int64 below
    2^32."""
    return mix_((mix_(keys + purpose * GOLDEN & MASK) + numbers).bitwise_and_(MASK))


def _smallest(values: Tensor, amount: int) -> Tensor:
    """(R, S) -> (R, amount): the smallest values of each row, ascending. `values` may be reordered in place.

    The hashes differ from one another, so numpy and torch give the same result; numpy is several times faster.
    """
    if values.device.type != "cpu":
        return values.topk(amount, largest=False, sorted=True).values
    array = values.numpy()
    array.partition(amount - 1, axis=1)
    return torch.from_numpy(np.sort(array[:, :amount], axis=1))


def masker(config: MaskingConfig, seq_length: int, vocab_size: int, special_ids: Mapping[str, int],
           device: torch.device) -> Masker:
    """A `Masker` with these settings, whose tables are on `device`.

    Args:
        seq_length: S.
        special_ids: role -> id, of pad, cls, sep and mask; other roles are ignored.

    Raises:
        UserError: the vocabulary has nothing but special entries.
    """
    never_drawn = tuple(sorted({special_ids[role] for role in ("cls", "sep", "mask", "pad")} - {0}))
    entries = vocab_size - 1 - len(never_drawn)
    if entries < 1:
        raise UserError(f"a vocabulary of {vocab_size} entries has none that could replace a token")
    return Masker(
        config, seq_length, special_ids["mask"], (special_ids["cls"], special_ids["sep"]), never_drawn, entries,
        budgets=torch.tensor([budget(length, config.mask_rate) for length in range(seq_length + 1)], device=device),
        bounds=kind_bounds(config.mask_token_rate),
        span_bounds=torch.tensor(span_bounds(config.span_geo_prob, config.span_max_length), dtype=torch.int64,
                                 device=device),
        positions=torch.arange(seq_length, device=device))


def kind_bounds(rate: float) -> tuple[int, int]:
    """The fractions of predicted tokens that become [MASK], and [MASK] or random, multiplied by 2^32.

    >>> [round(bound / 2**32, 6) for bound in kind_bounds(0.8)]
    [0.8, 0.9]
    """
    return round(rate * (1 << 32)), round((1.0 + rate) / 2 * (1 << 32))


def span_bounds(probability: float, longest: int) -> list[int]:
    """The probabilities of spans of at most 1, 2, ..., longest - 1 tokens, multiplied by 2^32.

    Span lengths have a geometric distribution with parameter `probability`, truncated at `longest`. Of spans with
    parameter 0.5 and at most 3 tokens, 4/7 have one token and 6/7 have at most two:

    >>> [round(7 * bound / 2**32, 6) for bound in span_bounds(0.5, 3)]
    [4.0, 6.0]
    """
    whole = 1.0 - (1.0 - probability) ** longest
    return [round((1.0 - (1.0 - probability) ** length) / whole * (1 << 32)) for length in range(1, longest)]
