"""Pairs from documents of any size: what is labelled as another document's is another document's."""

import gzip

import numpy as np
import pytest

from tests.data.conftest import SHARD_BYTES, make
from uer.data import draws
from uer.data.draws import Draws, coins
from uer.data.processors import bert, pools
from uer.data.processors.base import Lines, Ragged
from uer.data.processors.bert import NextSentenceBuilder
from uer.data.store import open_dataset

CLS, SEP, FIRST = 2, 3, 10
POOL, LARGEST, SENTENCE = 100, 1000, 7


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    monkeypatch.setattr(pools, "POOL_TOKENS", POOL)
    monkeypatch.setattr(pools, "LARGEST_DOCUMENT", LARGEST)
    monkeypatch.setattr(bert, "LENT_TOKENS", 30)


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
    assert builder.documents == len(sizes) and {first for first, _, _ in found} == set(range(len(sizes)))
    assert sum(other for _, _, other in found) > len(found) // 4
    assert all((first != second) == other for first, second, other in found)


@pytest.mark.parametrize("layout", ["one file", "a file each", "one gz", "a gz each"])
def test_documents_that_are_larger_than_a_shard_draw_from_one_another(layout, tmp_path, small_tokenizer):
    texts = ["".join(f"{chr(0x4E00 + number)}{'一' * 50}\n" for _ in range(30)) for number in range(1, 7)]
    assert min(len(text.encode()) for text in texts) > SHARD_BYTES
    parts = ["\n".join(texts)] if layout.startswith("one") else texts
    for number, part in enumerate(parts):
        data = part.encode("utf-8-sig")
        (tmp_path / f"{number}.txt").write_bytes(gzip.compress(data) if "gz" in layout else data)
    files = sorted(tmp_path.glob("*.txt"))
    for processes in (1, 2):
        make(tmp_path, small_tokenizer, *files, name=f"{processes}.pt", processes_num=processes, data_processor="bert",
             seq_length=128, dup_factor=2)
    assert (tmp_path / "1.pt").read_bytes() == (tmp_path / "2.pt").read_bytes()
    dataset, marks = open_dataset(tmp_path / "1.pt"), {small_tokenizer.vocab.ids[text[0]] for text in texts}
    others = [(set(row[:at].tolist()) & marks, set(row[at:].tolist()) & marks) for row, at, other in zip(
        map(dataset.__getitem__, range(len(dataset))), dataset.columns["split"], dataset.columns["is_random"]) if other]
    assert len(others) > len(dataset) // 4 and all(not first & second for first, second in others)
    assert dataset.info.counts["documents"] == 6


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
