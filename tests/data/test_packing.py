"""Sizes of batches without padding: few, known to the host, and always large enough."""

import dataclasses

import pytest
import torch

from tests.data.test_loader import SPECIAL_IDS, build, write
from uer.data import loader as loader_module
from uer.data.batch import Batch, Labels, Packing, Side
from uer.data.packing import choose_sizes, measured, smallest


def test_what_a_micro_batch_needs():
    src = torch.tensor([[2, 7, 2, 8, 3], [2, 9, 3, 0, 0], [7, 2, 3, 0, 0], [2, 3, 0, 0, 0]])
    labels = {"mlm": Labels(torch.tensor([[5, -100], [6, 7], [-100, -100], [8, -100]]), torch.zeros(4, 2).long()),
              "lm": Labels(torch.ones(4, 5).long())}
    batch = Batch(Side(src, (src > 0).long()), labels, torch.arange(4))
    assert measured(batch, 2, None).tolist() == [[8, 3, 2], [5, 1, 2]]
    assert measured(batch, 2, document_start=2).tolist() == [[8, 3, 3], [5, 1, 3]]


def test_the_target_side_has_a_size_of_its_own():
    src, tgt = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]), torch.tensor([[2, 5, 0], [2, 0, 0]])
    batch = Batch(Side(src, (src > 0).long()), {"lm": Labels(tgt, side="tgt")}, torch.arange(2),
                  Side(tgt, (tgt > 0).long()))
    assert measured(batch, 1, None).tolist() == [[4, 0, 1, 2], [3, 0, 1, 1]]
    sample = [[1000 + 40 * number, 0, 64, 300 - number] for number in range(-5, 6)]
    sizes = choose_sizes(sample, positions=8192)
    assert all(smallest(sizes, need) is not None for need in sample) and all(size.predictions == 0 for size in sizes)
    assert smallest(sizes, [900, 0, 64, sizes[1].tgt_tokens - 1]) == sizes[1]
    assert smallest(sizes, [900, 0, 64, sizes[1].tgt_tokens]) == sizes[2], "one token has to stay free"


def test_sizes_follow_what_occurs():
    sample = [[1000 + 40 * number, 150 + number, 64] for number in range(-5, 6)]
    sizes = choose_sizes(sample, positions=8192)
    assert [size.tokens for size in sizes] == [880, 1008, 1136, 1264, 1520]
    assert all(size.predictions % 16 == 0 and size.sequences == 64 for size in sizes)
    assert all(smallest(sizes, need) is not None for need in sample)
    assert smallest(sizes, [1008, 150, 64]) == sizes[2], "one token has to stay free"
    assert smallest(sizes, [1500, 150, 64]) == sizes[4] and smallest(sizes, [1520, 150, 64]) is None
    assert smallest(sizes, [900, 230, 64]) == sizes[3], "there must be room for the predictions too"
    assert choose_sizes([[8190, 1200, 64]] * 3, positions=8192) == [], "no padding, nothing to save"
    documents = choose_sizes([[1000, 150, 90], [1100, 160, 80]], positions=8192)
    assert all(size.sequences >= 0.09 * size.tokens for size in documents)


@pytest.mark.parametrize("documents", [None, SPECIAL_IDS["cls"]])
def test_packed_batches_are_the_same_in_a_size_that_holds_them(tmp_path, documents, monkeypatch):
    monkeypatch.setattr(loader_module, "POSITIONS_AT_ONCE", 13 * 4 * 7 * 3)
    dataset = write(tmp_path / "d.pt", instances=300)
    settings = {"batch_size": 7, "accumulation_steps": 2}
    plain, packed = build(dataset, **settings), build(dataset, **settings, pack=True, document_start=documents)
    assert packed.sizes == sorted(packed.sizes, key=lambda size: size.tokens) and packed.sizes
    taken = set()
    for step in (*range(40), 3, 57):
        for one, two in zip(plain.step(step), packed.step(step), strict=True):
            assert torch.equal(one.src.values, two.src.values)
            assert torch.equal(one.labels["mlm"].values, two.labels["mlm"].values)
            assert one.packing is None
            taken.add(two.packing)
            if two.packing is not None:
                tokens, predictions, sequences = measured(two, 7, documents)[0].tolist()
                assert tokens < two.packing.tokens and predictions <= two.packing.predictions
                assert sequences <= two.packing.sequences and two.packing in packed.sizes
    assert len(taken) > 1
    assert dataclasses.replace(packed.step(0)[0], packing=Packing(1, 2, 3)).rows(0, 2).packing == Packing(1, 2, 3)
