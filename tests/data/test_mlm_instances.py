"""Documents of a line each to instances: framing, cutting, blocks."""

import random

import numpy as np
import pytest

from uer.data.draws import Draws
from uer.data.processors.base import Lines, Ragged
from uer.data.processors.lines import LineBuilder
from uer.data.processors.mlm import MlmConfig, MlmProcessor
from uer.data.schema import VocabInfo

SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 101, "sep": 102, "mask": 103}


def _add(builder, documents, word_start=None, unfinished=False):
    offsets = np.cumsum([0] + [len(document) for document in documents])
    ids = np.array([token for document in documents for token in document], np.uint16)
    return builder.add(Lines((Ragged(ids, offsets, word_start),), unfinished))


def _plainly(documents, seq_length):
    """What a loop over documents makes of them: tokens, starts of instances."""
    tokens, starts = [], []
    for document in filter(None, documents):
        framed = [101, *document, 102]
        starts += [len(tokens) + place for place in range(0, len(framed), seq_length)]
        tokens += framed
    return tokens, starts


def test_the_documented_example():
    processor = MlmProcessor(4, MlmConfig(), {"src": VocabInfo("", 300, SPECIAL_IDS)})
    made = _add(processor.builder(Draws()), [[7, 8, 9], [5]])
    assert made.columns["src"].tolist() == [101, 7, 8, 9, 102, 101, 5, 102]
    assert made.starts["src"].tolist() == [0, 4, 5]
    assert made.columns["src"].dtype == np.uint16


@pytest.mark.parametrize("seq_length", [4, 5, 13, 128])
def test_any_division_into_blocks_gives_the_same(seq_length):
    chance = random.Random(seq_length)
    for _ in range(200):
        documents = [[chance.randrange(200, 300) for _ in range(chance.choice([0, 0, 1, 2, 3, 5, 20]))]
                     for _ in range(chance.randrange(1, 8))]
        builder = LineBuilder(seq_length, 101, 102)
        blocks, block = [], []
        for document in documents:
            rest = document
            while chance.random() < 0.4:
                cut = chance.randrange(len(rest) + 1)
                blocks.append(([*block, rest[:cut]], True))
                block, rest = [], rest[cut:]
            block.append(rest)
            if chance.random() < 0.3:
                blocks.append((block, False))
                block = []
        if block:
            blocks.append((block, False))
        made = [_add(builder, lines, unfinished=unfinished) for lines, unfinished in blocks]
        tokens = [token for part in made for token in part.columns["src"].tolist()]
        starts = [start for part in made for start in part.starts["src"].tolist()]
        assert (tokens, starts) == _plainly(documents, seq_length)
        assert builder.documents == sum(map(bool, documents))
        assert builder.blank_lines == len(documents) - builder.documents


def test_joined_documents_have_no_starts_of_their_own():
    builder = LineBuilder(4, 101, 102, joined=True)
    made = _add(builder, [[7, 8, 9], [], [5]])
    assert made.columns["src"].tolist() == [101, 7, 8, 9, 102, 101, 5, 102]
    assert len(made.starts["src"]) == 0
    assert (builder.documents, builder.blank_lines) == (2, 1)


def test_special_tokens_are_words_of_their_own():
    builder = LineBuilder(4, 101, 102)
    made = _add(builder, [[7, 8, 9], [5, 6]], word_start=np.array([1, 0, 1, 1, 0], np.uint8))
    assert made.columns["word_start"].tolist() == [1, 1, 0, 1, 1, 1, 1, 0, 1]
