"""Rows as the original cuts them, and the other ways to shorten; little padding in a batch."""

import numpy as np
import pytest

from uer.finetuning import rows
from uer.finetuning.batches import (
    IGNORED,
    Examples,
    batches_in_epoch,
    collate,
    epoch_batches,
    evaluation_batches,
    padding_share,
    shard,
)
from uer.finetuning.config import TRUNCATIONS
from uer.finetuning.rows import Ragged, Sequences, build_sequences

CLS, SEP, PAD = 2, 3, 0


def ragged(*rows: list[int]) -> Ragged:
    return Ragged.of([np.array(row) for row in rows])


def rows_of(sequences: Sequences) -> list[list[int]]:
    return [sequences.tokens[row].tolist() for row in range(len(sequences))]


def test_head_cuts_the_joined_row_as_uer_does():
    first, second = ragged([11, 12], [11, 12, 13, 14, 15]), ragged([21], [21, 22])
    single = build_sequences(first, None, 6, "head", CLS, SEP)
    assert rows_of(single) == [[CLS, 11, 12, SEP], [CLS, 11, 12, 13, 14, 15]]
    pair = build_sequences(first, second, 8, "head", CLS, SEP)
    assert rows_of(pair) == [[CLS, 11, 12, SEP, 21, SEP], [CLS, 11, 12, 13, 14, 15, SEP, 21]]
    assert pair.first.tolist() == [4, 7]


@pytest.mark.parametrize("truncation, expected", [("first", [11, 12, 13, 14]), ("tail", [13, 14, 15, 16]),
                                                  ("head_tail", [11, 14, 15, 16])])
def test_other_truncations_keep_the_special_tokens(truncation, expected):
    rows = build_sequences(ragged([11, 12, 13, 14, 15, 16], [11]), None, 6, truncation, CLS, SEP)
    assert rows_of(rows) == [[CLS, *expected, SEP], [CLS, 11, SEP]]


def test_a_pair_shortens_its_longer_text_first():
    long, short = list(range(11, 21)), [31, 32]
    pair = build_sequences(ragged(long, short), ragged(short, long), 9, "tail", CLS, SEP)
    assert rows_of(pair) == [[CLS, 17, 18, 19, 20, SEP, 31, 32, SEP], [CLS, 31, 32, SEP, 17, 18, 19, 20, SEP]]
    assert pair.first.tolist() == [6, 4]
    both = build_sequences(ragged(long), ragged(long), 9, "tail", CLS, SEP)
    assert rows_of(both) == [[CLS, 18, 19, 20, SEP, 18, 19, 20, SEP]]


@pytest.mark.parametrize("truncation", TRUNCATIONS)
@pytest.mark.parametrize("pairs", [False, True])
def test_rows_are_joined_as_one_by_one(monkeypatch, truncation, pairs):
    """Of any length, in blocks of any size; each text alone is cut by `keep`."""
    monkeypatch.setattr(rows, "ROWS_AT_ONCE", 7)
    draw = np.random.default_rng(3)
    parts = [ragged(*(draw.integers(5, 90, draw.integers(0, 12)) for _ in range(60))) for _ in range(1 + pairs)]
    found = build_sequences(parts[0], parts[1] if pairs else None, 9, truncation, CLS, SEP)
    for row in range(60):
        texts, budget = [part[row] for part in parts], 9 - 2 - pairs
        shorter = min(min(map(len, texts)), budget // 2) if pairs else 0
        allowed = [shorter, budget - shorter] if len(texts[0]) <= len(texts[-1]) else [budget - shorter, shorter]
        if truncation != "head":
            texts = [rows.keep(text, most, truncation) for text, most in zip(texts, allowed if pairs else [budget])]
        joined = [CLS, *(token for text in texts for token in [*text.tolist(), SEP])][:9]
        assert found.tokens[row].tolist() == joined and found.first[row] == min(len(texts[0]) + 2, 9)
    assert len(build_sequences(ragged(), ragged(), 9, truncation, CLS, SEP)) == 0


def many(count: int = 137, ways: int = 1) -> Examples:
    generator = np.random.default_rng(5)
    rows = ragged(*(generator.integers(5, 90, generator.integers(1, 60)).tolist() for _ in range(count * ways)))
    return Examples(build_sequences(rows, None, 40, "head", CLS, SEP), ways, {"label": np.arange(count)})


def test_an_epoch_holds_every_example_once_in_a_seeded_order():
    examples = many()
    for seed, epoch in ((1, 1), (1, 2), (2, 1)):
        batches = epoch_batches(examples, 8, seed, epoch)
        assert sorted(np.concatenate(batches)) == list(range(137))
        assert len(batches) == batches_in_epoch(examples, 8) == 18
        assert [batch.tolist() for batch in batches] == [
            batch.tolist() for batch in epoch_batches(examples, 8, seed, epoch)]
    orders = {tuple(np.concatenate(epoch_batches(examples, 8, seed, epoch))) for seed in (1, 2) for epoch in (1, 2)}
    assert len(orders) == 4
    assert padding_share(examples, evaluation_batches(examples, 8)) < 0.08


def test_the_batches_of_training_are_drawn_without_regard_to_length():
    """The spread of lengths inside a batch is that of the whole file, as for any uniform draw."""
    examples = many(4096)
    lengths = examples.lengths
    inside = np.mean([lengths[batch].var() for batch in epoch_batches(examples, 32, 1, 1)])
    assert inside == pytest.approx(lengths.var() * 31 / 32, rel=0.05)


def test_ranks_share_a_batch():
    chosen = np.arange(7)
    parts = [shard(chosen, rank, 3).tolist() for rank in range(3)]
    assert sorted(number for part in parts for number in part) == chosen.tolist()


def test_collate_pads_to_the_batch_and_marks_the_second_text():
    first, second = ragged([11, 12], [11]), ragged([21], [21, 22, 23])
    rows = build_sequences(first, second, 20, "head", CLS, SEP)
    examples = Examples(rows, targets={"label": np.array([1, 0])},
                        token_targets={"tag": Ragged(rows.tokens.values + 100, rows.tokens.offsets)})
    batch = collate(examples, np.array([1, 0]), PAD)
    assert batch.src.tolist() == [[CLS, 11, SEP, 21, 22, 23, SEP], [CLS, 11, 12, SEP, 21, SEP, PAD]]
    assert batch.seg.tolist() == [[1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 2, 2, 0]]
    assert batch.targets["label"].tolist() == [0, 1]
    assert batch.targets["tag"][1].tolist() == [102, 111, 112, 103, 121, 103, IGNORED]


def test_an_example_of_several_rows_stays_together():
    examples = many(9, ways=3)
    assert len(examples) == 9
    assert examples.tokens_of(np.array([8, 0])).tolist() == [examples.rows.lengths[24:].sum(),
                                                             examples.rows.lengths[:3].sum()]
    batch = collate(examples, np.array([4, 0]), PAD)
    assert batch.src.shape[0] == 6
    assert batch.real_tokens.tolist() == examples.rows.lengths[[12, 13, 14, 0, 1, 2]].tolist()
