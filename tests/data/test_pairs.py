"""Pairs from documents of any size: what is labelled as another document's is another document's."""

import numpy as np
import pytest

from uer.data import draws
from uer.data.draws import Draws, coins
from uer.data.processors import pairs, pools
from uer.data.processors.base import Lines, Ragged
from uer.data.processors.bert import NextSentenceBuilder

CLS, SEP, FIRST = 2, 3, 10
POOL, LARGEST, SENTENCE = 100, 1000, 7


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    monkeypatch.setattr(pools, "POOL_TOKENS", POOL)
    monkeypatch.setattr(pools, "LARGEST_DOCUMENT", LARGEST)
    monkeypatch.setattr(pairs, "LENT_TOKENS", 30)


def lines(number: int, lengths: list[int], unfinished: bool = False) -> Lines:
    """Lines of document `number`, whose tokens are all FIRST + number; 0 is a blank line."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.full(offsets[-1], FIRST + number, np.uint16)
    return Lines((Ragged(ids, offsets, np.ones(len(ids), np.uint8)),), unfinished)


def rows(blocks: list[Lines]) -> tuple[NextSentenceBuilder, list[tuple[int, int, bool]]]:
    """(document of the first part, of the second, whether it is labelled as another's) of each pair."""
    builder = NextSentenceBuilder(32, CLS, SEP, 0.1, Draws(7, 0, 0), 1)
    made = [builder.add(block) for block in blocks] + [builder.end_file(), builder.finish()]
    tokens, split, label, starts = (np.concatenate([read(block) for block in made if block.columns]) for read in (
        lambda block: block.columns["src"], lambda block: block.columns["split"],
        lambda block: block.columns["is_random"], lambda block: block.starts["src"]))
    return builder, [(int(tokens[start + 1]) - FIRST, int(tokens[start + at]) - FIRST, bool(other))
                     for start, at, other in zip(starts, split, label)]


# The tokens of each document, by what is special about them.
SIZES = {"each fills a pool": [150] * 5, "several fill one": [40] * 9, "the last stands alone": [60, 50, 20, 300],
         "one is worked on in pieces": [150, 2500, 30, 150], "tiny behind large": [400, 7]}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_another_document_is_another(sizes):
    blocks = []
    for number, size in enumerate(sizes):
        for _ in range(size // 50):  # a block does not end where a document does
            blocks.append(lines(number, [SENTENCE] * 7))
        blocks.append(lines(number, [SENTENCE, 0]))
    builder, found = rows(blocks)
    assert builder.documents >= len(sizes) and {first for first, _, _ in found} == set(range(len(sizes)))
    assert sum(other for _, _, other in found) > len(found) // 4
    assert all((first != second) == other for first, second, other in found)


def test_a_line_without_end_is_worked_on_in_pieces():
    """The builder holds no more than about `LARGEST_DOCUMENT` tokens of it."""
    builder = NextSentenceBuilder(32, CLS, SEP, 0.1, Draws(7, 0, 0), 1)
    for _ in range(200):
        builder.add(lines(1, [49], unfinished=True))
        assert builder._held_tokens <= LARGEST + 49


def test_coins_of_many_are_those_of_few(monkeypatch):
    """The same number of heads, one key at a time or all keys together; about half of the coins."""
    keys, amounts = np.arange(40) * 7919, np.arange(40) * 61
    together = coins(keys, amounts)
    monkeypatch.setattr(draws, "MANY_COINS", 0)
    assert np.array_equal(coins(keys, amounts), together) and (together <= amounts).all()
    assert abs(together.sum() / amounts.sum() - 0.5) < 0.01
