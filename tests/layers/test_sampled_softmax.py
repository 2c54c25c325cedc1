"""A softmax over a sample of the vocabulary against the one over all of it."""

import pytest
import torch

from uer.layers.cpu.random_bits import masks_from
from uer.layers.cross_entropy import IGNORED, linear_cross_entropy
from uer.layers.sampled_softmax import SampledCrossEntropy

V, ENTRIES = 97, 32  # 28 frequent ones, 4 drawn of 69
COUNTS = torch.arange(V).flip(0)  # entry 0 is the most frequent one


def _inputs(labels, size=5):
    torch.manual_seed(3)
    weight, bias = torch.randn(V, size, requires_grad=True), torch.randn(V, requires_grad=True)
    return torch.randn(len(labels), size, requires_grad=True), weight, bias, torch.tensor(labels)


def test_every_label_is_among_the_entries_and_every_entry_is_there_once():
    sampled = SampledCrossEntropy(COUNTS, ENTRIES)
    assert sampled.frequent.tolist() == list(range(28))
    for seed in range(20):
        with masks_from(seed):
            entries, log_weights = sampled.draw(torch.tensor([0, 96, 40, IGNORED, 40, 27]))
        assert len(entries) == len(set(entries.tolist())) == ENTRIES and {0, 27, 40, 96} <= set(entries.tolist())
        weights = log_weights.exp()
        ones = torch.isin(entries, torch.tensor([*range(28), 40, 96]))
        torch.testing.assert_close(weights[ones], torch.ones(30))
        torch.testing.assert_close(weights[~ones], torch.full((2,), 67 / 2))  # two stand for 69 - 2 others


def test_the_sum_of_exponentials_is_expected_to_be_that_of_all_entries():
    hidden, weight, bias, labels = _inputs([5, 80])
    sampled, logits = SampledCrossEntropy(COUNTS, ENTRIES), (hidden @ weight.T + bias)[0].detach().double() / 4
    with masks_from(11):
        sums = torch.stack([(logits[entries] + log_weights).exp().sum()
                            for entries, log_weights in (sampled.draw(labels) for _ in range(3000))])
    error = sums.std() / len(sums) ** 0.5
    assert abs(sums.mean() - logits.exp().sum()) < 4 * error and error < 0.02 * sums.mean()


@pytest.mark.parametrize("with_bias", [True, False])
def test_it_is_exact_where_the_rare_entries_are_improbable(with_bias):
    hidden, weight, bias, labels = _inputs([5, 12, IGNORED, 80, 80])
    with torch.no_grad():  # of the rare entries, only the label's own is not improbable: all hidden[:, 0] are positive
        hidden[:, 0].abs_().add_(1)
        weight[28:, 0] = -1e4
        weight[80, 0] = 0.3
    inputs = [hidden, weight, bias] if with_bias else [hidden, weight]
    arguments = hidden, weight, bias if with_bias else None, labels
    loss, correct = SampledCrossEntropy(COUNTS, ENTRIES)(*arguments)
    expected, expected_correct = linear_cross_entropy(*arguments)
    torch.testing.assert_close(loss, expected)
    assert correct == expected_correct
    for our, their in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)):
        torch.testing.assert_close(our, their)


def test_all_entries_are_computed_outside_of_training():
    inputs = _inputs([5, 80])
    torch.testing.assert_close(SampledCrossEntropy(COUNTS, ENTRIES).eval()(*inputs), linear_cross_entropy(*inputs))


def test_the_sample_is_a_function_of_the_seed():
    sampled, labels = SampledCrossEntropy(COUNTS, ENTRIES), torch.tensor([5])
    drawn = []
    for seed in (1, 1, 2):
        with masks_from(seed):
            drawn.append(sampled.draw(labels)[0].tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert not sampled.state_dict()


def test_labels_that_find_no_room_do_not_count():
    hidden, weight, bias, labels = _inputs(list(range(60, 70)))  # ten rare labels, room for four
    loss, _ = SampledCrossEntropy(COUNTS, ENTRIES)(hidden, weight, bias, labels)
    gradient, = torch.autograd.grad(loss, hidden)
    assert torch.isfinite(loss) and (gradient.abs().sum(1) > 0).sum() == 4
