"""Which instance each sample is: the worked examples of the docstrings in uer/data/samples.py.

That every instance comes once in each epoch, for any number of ranks, is in test_loader.py.
"""

import torch

from tests.data.test_loader import write
from uer.data import samples
from uer.data.hashing import hash_words


def test_rare_datasets_keep_a_slot():
    assert samples.mixture_slots([3, 1]) == [0, 7500, 10_000]
    assert samples.mixture_slots([1e-9, 1, 1e-9]) == [0, 1, 9999, 10_000]


def test_the_example_of_dealing(monkeypatch):
    orders = torch.tensor([[2, 3, 0, 1], [0, 1, 3, 2]])
    monkeypatch.setattr(samples, "permute", lambda index, length, seed, epoch: orders[epoch, index])
    dataset, number = samples.deal(torch.arange(8), [0, 3, 4], seed=7)
    assert dataset.tolist() == [0, 1, 0, 0, 0, 0, 1, 0]
    assert number.tolist() == [2, 0, 0, 1, 3, 4, 1, 5]


def test_the_example_of_versions(tmp_path, monkeypatch):
    dataset = write(tmp_path / "a.pt", 5, dynamic_masking=False, dup_factor=2)
    part = samples.TrainPart(dataset, 0, 7, 0.0)
    monkeypatch.setattr(samples, "permute", lambda index, length, seed, epoch: torch.where(
        (index == 3) & (epoch == 1), 7, 0))
    stored, key = part.instances(torch.tensor([13]))
    assert stored.item() == 2 and key.item() == hash_words(7, samples.MASKS, 1, 2)
