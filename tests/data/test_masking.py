"""Masks: ratios, exact budgets, forbidden positions, and the three ways of choosing against a plain reference."""

import itertools
import math
import zlib

import pytest
import torch

from uer.config import MaskingConfig
from uer.data import masking
from uer.data.hashing import hash_words
from uer.data.masking import IGNORED, budget, masker, span_bounds
from uer.errors import UserError

PAD, UNK, CLS, SEP, MASK_ID = 0, 1, 2, 3, 4
SPECIAL_IDS = {"cls": CLS, "mask": MASK_ID, "pad": PAD, "sep": SEP, "unk": UNK}
PLAIN, SPANS = MaskingConfig(), MaskingConfig(span_masking=True)
WORDS = MaskingConfig(whole_word_masking=True)


def build(config, seq_length, vocab_size=60, device="cpu"):
    return masker(config, seq_length, vocab_size, SPECIAL_IDS, torch.device(device))


def random_rows(rows, seq_length, vocab_size=60, seed=0):
    """Rows of all lengths, most framed as [CLS] ... [SEP], some with more special tokens inside."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, seq_length + 1, (rows,), generator=generator)
    lengths[: rows // 3] = seq_length
    tokens = torch.randint(5, vocab_size, (rows, seq_length), generator=generator)
    tokens[torch.rand(rows, seq_length, generator=generator) < 0.03] = SEP
    tokens[::2, 0] = CLS
    tokens[torch.arange(rows), lengths - 1] = SEP
    word_start = (torch.rand(rows, seq_length, generator=generator) < 0.6).to(torch.uint8)
    keys = hash_words(seed, torch.arange(rows))
    real = torch.arange(seq_length) < lengths[:, None]
    return tokens * real, real, lengths, keys, word_start


def run(config, rows, vocab_size=60):
    """-> src, positions, labels, and where a token was chosen (R, S)."""
    tokens, real, lengths, keys, word_start = rows
    src = tokens.clone()
    mask = build(config, tokens.shape[1], vocab_size)
    positions, labels = mask(src, real, lengths, keys, word_start)
    assert positions.shape == labels.shape == (len(tokens), budget(tokens.shape[1]))
    chosen = torch.zeros(len(tokens), tokens.shape[1] + 1, dtype=torch.long)
    chosen.scatter_add_(1, torch.where(labels != IGNORED, positions, tokens.shape[1]), torch.ones_like(positions))
    chosen = chosen[:, :-1]
    assert int(chosen.max()) <= 1, "a position is predicted twice"
    return src, positions, labels, chosen.bool()


def maskable_of(rows):
    return rows[1] & (rows[0] != CLS) & (rows[0] != SEP)


def test_budget_rounds_as_the_original():
    assert [budget(n) for n in (1, 2, 9, 10, 11, 30, 50, 128, 512)] == [1, 1, 1, 2, 2, 4, 8, 19, 77]


@pytest.mark.parametrize("config", [PLAIN, SPANS, WORDS], ids=["tokens", "spans", "words"])
@pytest.mark.parametrize("seq_length", [4, 13, 37, 128])
def test_only_maskable_tokens_are_chosen_and_labels_are_the_originals(config, seq_length):
    rows = random_rows(1500, seq_length)
    src, positions, labels, chosen = run(config, rows)
    tokens, maskable = rows[0], maskable_of(rows)
    assert not (chosen & ~maskable).any()
    assert torch.equal(src[~chosen], tokens[~chosen])
    real = labels != IGNORED
    assert torch.equal(labels[real], tokens.gather(1, positions)[real])
    assert not positions[~real].any()
    allowed = torch.minimum(torch.tensor([budget(int(n)) for n in rows[2]]), maskable.sum(1))
    counts = chosen.sum(1)
    if config is WORDS:
        assert (counts <= allowed).all()
        assert ((counts > 0) == (allowed > 0)).all()
    else:
        assert torch.equal(counts, allowed)


def test_a_row_without_a_maskable_token_predicts_nothing_and_stays():
    rows = (torch.tensor([[CLS, SEP, PAD, PAD], [CLS, 7, SEP, PAD]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool(),
            torch.tensor([2, 3]), torch.tensor([5, 6]), torch.ones(2, 4))
    for config in (PLAIN, SPANS, WORDS):
        src, positions, labels, _ = run(config, rows)
        assert src[0].tolist() == [CLS, SEP, PAD, PAD]
        assert labels.tolist() == [[IGNORED], [7]]
        assert positions.tolist() == [[0], [1]]


@pytest.mark.parametrize("config", [PLAIN, SPANS, WORDS], ids=["tokens", "spans", "words"])
def test_ratios(config):
    """80% [MASK], 10% random, 10% the same, each within four standard deviations; random entries are uniform."""
    vocab_size = 1000
    rows = random_rows(8000, 64, vocab_size)
    src, _, _, chosen = run(config, rows, vocab_size)
    before, after = rows[0][chosen], src[chosen]
    total = len(before)
    draws = total / 3.5 if config is SPANS else total  # one draw a span; spans are 3.8 tokens long on average, cut
    others = vocab_size - 1 - 3
    for share, expected in (((after == MASK_ID).double().mean(), 0.8), ((after == before).double().mean(),
                            0.1 + 0.1 / others), (((after != MASK_ID) & (after != before)).double().mean(), 0.1)):
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)
    drawn = after[(after != MASK_ID) & (after != before)]
    assert not torch.isin(drawn, torch.tensor([PAD, CLS, SEP, MASK_ID])).any()
    counts = torch.bincount(drawn, minlength=vocab_size)[[UNK, *range(5, vocab_size)]].double()
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum() / (others - 1)
    assert 0.8 < chi_square < 1.2


def test_every_id_that_may_be_drawn_is_drawn():
    rows = random_rows(4000, 37, 9)
    src, _, _, chosen = run(PLAIN, rows, 9)
    drawn = src[chosen & (src != rows[0])]
    assert set(drawn.tolist()) == {MASK_ID, UNK, 5, 6, 7, 8}


def test_a_vocabulary_of_special_entries_is_refused():
    with pytest.raises(UserError, match="4 entries"):
        masker(PLAIN, 8, 4, {"pad": 0, "cls": 1, "sep": 2, "mask": 3}, torch.device("cpu"))


def test_every_position_and_every_pair_is_as_likely():
    rows, length = 60_000, 20
    tokens = torch.full((rows, length), 9)
    tokens[:, 0], tokens[:, -1] = CLS, SEP
    keys = hash_words(1, torch.arange(rows))
    chosen = run(PLAIN, (tokens, tokens > 0, torch.full((rows,), length), keys, None))[3][:, 1:-1].double()
    expected = 3 / 18
    assert (chosen.mean(0) - expected).abs().max() < 5 * math.sqrt(expected * (1 - expected) / rows)
    pairs = (chosen.T @ chosen / rows)[~torch.eye(18, dtype=torch.bool)]
    expected = expected * 2 / 17
    assert (pairs - expected).abs().max() < 5 * math.sqrt(expected * (1 - expected) / rows)


@pytest.mark.parametrize("config", [PLAIN, SPANS, WORDS], ids=["tokens", "spans", "words"])
def test_a_row_depends_on_its_key_alone(config):
    rows = random_rows(40, 37)
    together = run(config, rows)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    for part in order.split(7):
        alone = run(config, tuple(column[part] for column in rows))
        for one, other in zip(alone, together):
            assert torch.equal(one, other[part])
    other_keys = run(config, (*rows[:3], rows[3] ^ 1, rows[4]))
    assert (other_keys[3] != together[3]).any(1).double().mean() > 0.8


def reference(config, tokens, length, key, word_start):
    """The rules of `uer.data.masking` in plain words, for one row; -> {position: what its draw belongs to}."""
    maskable = [p for p in range(length) if tokens[p] not in (CLS, SEP)]
    draw = {p: int(masking.draw(masking.ORDER, key.view(1, 1), torch.tensor([p]))) for p in maskable}
    order = sorted(maskable, key=lambda p: (draw[p], p))
    wanted, chosen = min(budget(length), len(maskable)), {}
    if config.span_masking:
        bounds = span_bounds(config.span_geo_prob, config.span_max_length)
        for anchor in order[:budget(len(tokens))]:
            hashed = int(masking.draw(masking.LENGTH, key.view(1, 1), torch.tensor([anchor])))
            for position in range(anchor, anchor + 1 + sum(hashed >= bound for bound in bounds)):
                if position not in maskable:
                    break
                if position not in chosen and len(chosen) < wanted:
                    chosen[position] = anchor
        return chosen
    if config.whole_word_masking:
        begins = [p for p in maskable if p - 1 not in maskable or word_start[p]]
        words = {}
        for position in maskable:
            words.setdefault(max(b for b in begins if b <= position), []).append(position)
        for first in [p for p in order if p in words][:2 * budget(len(tokens))]:
            if len(chosen) + len(words[first]) <= wanted:
                chosen.update({position: position for position in words[first]})
        if chosen:
            return chosen
        order, wanted = [p for p in order if p in words], min(wanted, 1)
    return {position: position for position in order[:wanted]}


@pytest.mark.parametrize("config", [PLAIN, SPANS, WORDS, MaskingConfig(span_masking=True, span_max_length=1),
                                    MaskingConfig(span_masking=True, span_geo_prob=0.05, span_max_length=30)])
@pytest.mark.parametrize("seq_length", [5, 16, 37])
def test_equals_the_plain_reference(config, seq_length):
    rows = random_rows(60, seq_length, seed=seq_length)
    chosen = run(config, rows)[3]
    for number in range(len(chosen)):
        expected = reference(config, rows[0][number].tolist(), int(rows[2][number]), rows[3][number],
                             rows[4][number].tolist())
        assert chosen[number].nonzero().squeeze(1).tolist() == sorted(expected)


class Scripted:
    """Draws as a test writes them: order[p] is the place of position p, length[p] the length of a span from it."""

    def __init__(self, order, lengths=(), bounds=()):
        self.order = torch.tensor([order.index(p) if p in order else 10**6 for p in range(len(order) + 4)])
        self.lengths, self.bounds = lengths, bounds

    def __call__(self, purpose, keys, numbers):
        numbers = numbers.expand(len(keys), -1).clone()
        if purpose == masking.ORDER:
            return self.order[numbers]
        if purpose == masking.LENGTH:
            wanted = {p: ([0, *self.bounds])[length - 1] for p, length in self.lengths.items()}
            return torch.tensor([[wanted.get(int(p), 0) for p in row] for row in numbers])
        return torch.zeros_like(numbers)  # everything becomes [MASK]


def row_of(tokens, word_start=None):
    tokens = torch.tensor([tokens])
    start = None if word_start is None else torch.tensor([word_start])
    return tokens, tokens != PAD, (tokens != PAD).sum(1), torch.tensor([0]), start


def test_words_by_hand(monkeypatch):
    # A row of 20 tokens has a budget of 3. Words: [1 2] [3] [4 5 6 7] [8 9] [10] ...; order: 4, 1, 8, 3.
    starts = [1, 1, 0, 1, 1, 0, 0, 0, 1, 0, *[1] * 10]
    monkeypatch.setattr(masking, "draw", Scripted([4, 1, 8, 3, 10, 11, 12, 13, 14, 15, 16, 17, 18, 2, 5, 6, 7, 9]))
    src, positions, labels, chosen = run(WORDS, row_of([CLS, *range(11, 29), SEP], starts))
    # [4..7] is longer than the budget, [1 2] fits, [8 9] does not fit into the one that is left, [3] does.
    assert chosen[0].nonzero().squeeze(1).tolist() == [1, 2, 3]
    assert positions.tolist() == [[1, 2, 3]]
    assert labels.tolist() == [[11, 12, 13]]
    assert src[0, :5].tolist() == [CLS, MASK_ID, MASK_ID, MASK_ID, 14]


def test_no_word_fits_by_hand(monkeypatch):
    # Words of two and three, a budget of one: the first token of the word that comes first stands for it.
    monkeypatch.setattr(masking, "draw", Scripted([4, 3, 1, 2, 5]))
    _, _, labels, chosen = run(WORDS, row_of([CLS, 11, 12, 13, 14, 15, SEP], [1, 1, 0, 1, 0, 0, 1]))
    assert chosen[0].nonzero().squeeze(1).tolist() == [3]
    assert labels.tolist() == [[13]]


def test_a_row_cut_within_a_word_begins_with_a_word(monkeypatch):
    # Nothing says that position 0 begins a word; the budget of 7 tokens is 1, and [0] and [6] are the short words.
    monkeypatch.setattr(masking, "draw", Scripted([1, 0, 6, 2, 3, 4, 5]))
    chosen = run(WORDS, row_of([10, 11, 12, 13, 14, 15, 16], [0, 1, 0, 0, 0, 0, 1]))[3]
    assert chosen[0].nonzero().squeeze(1).tolist() == [0]


def test_spans_by_hand(monkeypatch):
    # A row of 40 tokens has a budget of 6, but special tokens stand at 0, 5 and 39.
    tokens = [CLS, 11, 12, 13, 14, SEP, *range(15, 48), SEP]
    bounds = span_bounds(0.2, 10)
    anchors = [4, 8, 7, 20, 30, 31, *[p for p in range(1, 39) if p not in (4, 5, 8, 7, 20, 30, 31)]]
    monkeypatch.setattr(masking, "draw", Scripted(anchors, {4: 5, 8: 2, 7: 3, 20: 9, 30: 1, 31: 1}, bounds))
    _, positions, _, chosen = run(SPANS, row_of(tokens))
    # 4 reaches 5 positions but [SEP] cuts it to 4; 8 brings 8 9; 7 brings 7 (8 and 9 are taken); 20 the last 2.
    assert positions.tolist() == [[4, 8, 9, 7, 20, 21]]
    assert chosen.sum() == 6


def test_a_span_is_replaced_in_one_way():
    rows = random_rows(3000, 128, 20_000)
    src, _, _, chosen = run(MaskingConfig(span_masking=True, span_geo_prob=0.01), rows, 20_000)
    tokens = rows[0]
    kinds = torch.where(src == MASK_ID, 0, torch.where(src == tokens, 2, 1))
    inside = chosen[:, 1:] & chosen[:, :-1]
    together = (kinds[:, 1:] == kinds[:, :-1])[inside].double().mean()
    assert together > 0.85  # 0.66 if each token drew for itself; spans meet one another here and there
    drawn = src[chosen & (kinds == 1)]
    assert len(drawn.unique()) > 0.9 * len(drawn)  # but each token of a random span draws its own entry


def test_span_lengths_are_geometric():
    bounds = span_bounds(0.2, 10)
    shares = [bound / 2**32 for bound in (0, *bounds, 2**32)]
    lengths = [later - earlier for earlier, later in itertools.pairwise(shares)]
    assert len(lengths) == 10
    for one, other in itertools.pairwise(lengths):
        assert other / one == pytest.approx(0.8, abs=1e-6)
    assert span_bounds(0.5, 1) == []


@pytest.mark.gpu
@pytest.mark.parametrize("config", [PLAIN, SPANS, WORDS], ids=["tokens", "spans", "words"])
def test_same_bits_on_cuda(config):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tokens, real, lengths, keys, word_start = random_rows(500, 128)
    results = []
    for device in ("cpu", "cuda"):
        src = tokens.clone().to(device)
        rows = [column.to(device) for column in (real, lengths, keys, word_start)]
        positions, labels = build(config, 128, device=device)(src, *rows)
        results.append((src.cpu(), positions.cpu(), labels.cpu()))
    for one, other in zip(*results):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("config", "expected"), [(PLAIN, 3256498202), (SPANS, 984398736), (WORDS, 139122400)],
                         ids=["tokens", "spans", "words"])
def test_masks_are_frozen(config, expected):
    """A run goes on with the masks it began with, whatever version of the program it began with."""
    tokens = torch.arange(5, 55).expand(20, 50).contiguous()
    src = run(config, (tokens, tokens > 0, torch.full((20,), 50), torch.arange(20), tokens % 2))[0]
    assert zlib.crc32(src.to(torch.uint8).numpy().tobytes()) == expected


# The worked examples of the docstrings in uer/data/masking.py: P = 3, so S is at least 20; the row has 8 or 7 tokens.
S = 20


def example(config, row, order):
    """A masker, (1, S) maskable, and hashes (1, S) that put the positions into this order."""
    maskable = torch.tensor([[letter not in "[]" for letter in row] + [False] * (S - len(row))])
    hashes = torch.arange(S).add(100)
    hashes[torch.tensor(order)] = torch.arange(len(order))
    bits = S.bit_length()
    return build(config, S), maskable, (hashes << bits | torch.arange(S))[None]


def test_the_example_of_single_tokens():
    mask, maskable, hashes = example(PLAIN, "[abcdef]", [5, 2, 3, 1, 6, 4])
    assert mask._tokens(maskable, hashes, torch.tensor([[3]]))[0].tolist() == [[5, 2, 3]]


def test_the_example_of_spans():
    config = MaskingConfig(span_masking=True, span_geo_prob=0.4, span_max_length=3)
    mask, maskable, hashes = example(config, "[abcdef]", [5, 2, 3, 1, 6, 4])
    keys = torch.arange(1000)[:, None]
    lengths = 1 + torch.bucketize(masking.draw(masking.LENGTH, keys, torch.tensor([5, 2, 3])), mask.span_bounds,
                                  right=True)
    key = keys[(lengths == torch.tensor([2, 3, 1])).all(dim=1)][:1]  # one whose spans have the lengths 2, 3 and 1
    positions, draws = mask._spans(maskable, hashes, torch.tensor([[3]]), key)
    assert (positions.tolist(), draws.tolist()) == ([[5, 6, 2]], [[5, 5, 2]])


def test_the_example_of_whole_words():
    mask, maskable, hashes = example(WORDS, "[abcde]", [3, 5, 1])
    word_start = torch.tensor([[0, 1, 0, 1, 0, 1] + [0] * (S - 6)])
    assert mask._whole_words(maskable, word_start, hashes, torch.tensor([[3]]))[0].tolist() == [[3, 4, 5]]


def test_the_examples_of_the_helpers():
    mask = build(PLAIN, S)
    eligible = torch.zeros(1, S, dtype=torch.bool)
    eligible[0, [2, 5]] = True
    hashes = torch.full((1, S), 9) << S.bit_length() | torch.arange(S)
    hashes[0, 5] = 5
    assert mask._first(eligible, hashes, 3).tolist() == [[5, 2, S]]
    chosen, ranks = torch.tensor([[True, True, False, True]]), torch.tensor([[0, 1, 1, 2]])
    assert mask._compacted(chosen, ranks, torch.tensor([[5, 6, 7, 2]])).tolist() == [[5, 6, 2]]


@pytest.mark.parametrize("seq_length", [37, 128])
def test_rates_are_settings(seq_length):
    rows = random_rows(400, seq_length)
    tokens, real, lengths, keys, word_start = rows
    src = tokens.clone()
    mask = build(MaskingConfig(mask_rate=0.4, mask_token_rate=0.5), seq_length, 5000)
    positions, labels = mask(src, real, lengths, keys, word_start)
    chosen = labels != IGNORED
    long = lengths > 10  # all of these have as many maskable tokens as are wanted
    assert torch.equal(chosen.sum(1)[long], torch.tensor([budget(int(n), 0.4) for n in lengths])[long])
    put = src.gather(1, positions)[chosen]
    assert abs(float((put == MASK_ID).float().mean()) - 0.5) < 0.02
    assert abs(float((put == labels[chosen]).float().mean()) - 0.25) < 0.02
    everything = build(MaskingConfig(mask_token_rate=1.0), seq_length)
    src = tokens.clone()
    positions, labels = everything(src, real, lengths, keys, word_start)
    assert (src.gather(1, positions)[labels != IGNORED] == MASK_ID).all()


@pytest.mark.parametrize("wrong", [{"mask_rate": 0.0}, {"mask_rate": 1.0}, {"mask_token_rate": -0.1},
                                   {"mask_token_rate": 1.1}])
def test_rates_outside_their_range_are_refused(wrong):
    assert MaskingConfig(**wrong).problems()
