"""The order of an epoch: a bijection for any length, another one for each seed and epoch, without visible structure."""

import pytest
import torch

from uer.data.draws import mix
from uer.data.hashing import hash_words, mix_
from uer.data.order import permute


def order(length, seed=7, epoch=0):
    return permute(torch.arange(length), length, seed, epoch)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 100, 101, 997, 1000, 65_536, 100_003])
def test_is_a_bijection(length):
    assert torch.equal(order(length).sort().values, torch.arange(length))


@pytest.mark.parametrize("length", [2**31 - 1, 2**31, 2**31 + 11, 10**12 + 39])
def test_long_epochs_are_computed_where_they_are_asked_for(length):
    index = torch.cat([torch.arange(50_000), torch.arange(length - 50_000, length)])
    there = permute(index, length, 7, 3)
    assert len(there.unique()) == len(index)
    assert int(there.min()) >= 0 and int(there.max()) < length
    shares = torch.histc(there.double() / length, bins=10, min=0, max=1) / len(index)
    assert (shares - 0.1).abs().max() < 0.005
    assert torch.equal(permute(index[77:78], length, 7, 3), there[77:78])


def test_epochs_and_seeds_differ():
    orders = [order(1000, seed, epoch) for seed in (0, 7, 2**32 + 7, 2**40) for epoch in (0, 1, 2)]
    for number, one in enumerate(orders):
        for other in orders[:number]:
            assert (one == other).sum() < 15  # two random orders agree in one place on average


def test_one_call_may_ask_for_several_epochs():
    index, epochs = torch.tensor([5, 5, 17, 0]), torch.tensor([0, 1, 1, 2**33])
    expected = [permute(index[i:i + 1], 100, 3, int(epochs[i])) for i in range(4)]
    assert torch.equal(permute(index, 100, 3, epochs), torch.cat(expected))


def test_every_instance_comes_everywhere():
    length, epochs = 37, 4000
    there = permute(torch.arange(length).expand(epochs, -1), length, 7, torch.arange(epochs)[:, None])
    counts = torch.zeros(length, length).index_put_(
        (torch.arange(length).expand(epochs, -1), there), torch.ones(()), accumulate=True)
    expected = epochs / length
    chi_square = ((counts - expected) ** 2 / expected).sum() / (length - 1) ** 2
    assert 0.85 < chi_square < 1.15  # 1 with a standard deviation of 0.04


def test_neighbours_are_torn_apart():
    there = order(100_000).double()
    pairs = torch.stack([there[:-1], there[1:]])
    assert torch.corrcoef(pairs)[0, 1].abs() < 0.02
    assert ((there[1:] - there[:-1]).abs() <= 3).sum() < 25  # 6 on average
    assert torch.corrcoef(torch.stack([there, order(100_000, epoch=1).double()]))[0, 1].abs() < 0.02
    assert torch.corrcoef(torch.stack([there, torch.arange(100_000.0).double()]))[0, 1].abs() < 0.02


def test_hashes_are_frozen():
    """A run goes on with the order and masks it began with, whatever version of the program it began with."""
    words = torch.tensor([0, 1, 2**31, 2**40])
    assert hash_words(7, 0, words).tolist() == [82021417, 1261340366, 1155936846, 763509941]
    assert order(10).tolist() == [1, 8, 4, 9, 0, 5, 7, 2, 3, 6]


def test_mix_leaves_its_argument_and_stays_within_32_bits():
    values = torch.tensor([0, 1, 2**32 - 1])
    mixed = mix(values)
    assert values.tolist() == [0, 1, 2**32 - 1]
    assert int(mixed.min()) >= 0 and int(mixed.max()) < 2**32
    assert torch.equal(mix_(values), mixed) and torch.equal(values, mixed)  # in place
    flipped = mix(torch.arange(4096)) ^ mix(torch.arange(4096) ^ 1)
    ones = sum((flipped >> bit & 1).double().mean() for bit in range(32))
    assert 15 < ones < 17  # half of the bits change with the last bit of the input


@pytest.mark.gpu
def test_same_bits_on_cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for length in (1000, 2**31 + 11):
        index = torch.arange(1000)
        assert torch.equal(permute(index.cuda(), length, 7, index.cuda()).cpu(), permute(index, length, 7, index))
