"""The forward algorithm and Viterbi against all sequences, counted one by one."""

from itertools import pairwise, product

import pytest
import torch

from uer.layers.crf import (
    ConditionalRandomField,
    Scores,
    log_partition,
    negative_log_likelihood,
    pack,
    path_scores,
    viterbi,
)

LENGTHS = (5, 1, 3, 4)
TAGS = 3


def field(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Scores]:
    """Emissions (4, 5, 3), lengths and scores of a size that no tag's is negligible."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(len(LENGTHS), 5, TAGS), torch.tensor(LENGTHS), Scores(draw(TAGS), draw(TAGS), draw(TAGS, TAGS))


def score(emissions: torch.Tensor, tags: tuple[int, ...], scores: Scores) -> float:
    """One row's score, as the definition has it."""
    total = scores.start[tags[0]] + scores.end[tags[-1]]
    total += sum(emissions[position, tag] for position, tag in enumerate(tags))
    return float(total + sum(scores.transitions[one, other] for one, other in pairwise(tags)))


@pytest.mark.parametrize("seed", range(3))
def test_partition_likelihood_and_decoding_equal_brute_force(seed):
    emissions, lengths, scores = field(seed)
    partition, decoded = log_partition(emissions, lengths, scores), viterbi(emissions, lengths, Scores(
        *(part.float() for part in scores)))
    for row, length in enumerate(LENGTHS):
        every = {tags: score(emissions[row], tags, scores) for tags in product(range(TAGS), repeat=length)}
        assert float(partition[row]) == pytest.approx(float(torch.logsumexp(torch.tensor(list(every.values())), 0)))
        assert tuple(decoded[row, :length].tolist()) == max(every, key=every.get)
        assert not decoded[row, length:].any()
        for tags in list(every)[::7]:
            padded = torch.tensor([tags + (2,) * (5 - length)])
            own = path_scores(emissions[row:row + 1], padded, lengths[row:row + 1], scores)
            assert float(own) == pytest.approx(every[tags])


def test_likelihoods_of_all_sequences_sum_to_one_and_padding_does_not_count():
    emissions, lengths, scores = field()
    scores, emissions = Scores(*(part.float() for part in scores)), emissions.float()
    every = torch.tensor([tags + (0, 0) for tags in product(range(TAGS), repeat=3)])
    count = len(every)
    losses = negative_log_likelihood(emissions[2:3].expand(count, -1, -1), every, lengths[2:3].expand(count), scores)
    assert float(losses.neg().exp().sum()) == pytest.approx(1.0, abs=1e-5)
    other = emissions.clone()
    other[2, 3:] = 1e4
    tags = torch.randint(TAGS, (4, 5), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(negative_log_likelihood(other, tags, lengths, scores)[2],
                               negative_log_likelihood(emissions, tags, lengths, scores)[2])


def test_large_scores_neither_overflow_nor_vanish():
    emissions = torch.full((1, 60, 2), 1e4)
    emissions[:, :, 1] = -1e4
    zero = Scores(torch.zeros(2), torch.zeros(2), torch.zeros(2, 2))
    tags = torch.zeros(1, 60, dtype=torch.int64)
    assert float(negative_log_likelihood(emissions, tags, torch.tensor([60]), zero)) == 0.0


def test_gradients_equal_finite_differences():
    emissions, lengths, scores = field()
    tags = torch.randint(TAGS, (4, 5), generator=torch.Generator().manual_seed(1))
    inputs = [emissions.requires_grad_(), *(part.requires_grad_() for part in scores)]
    assert torch.autograd.gradcheck(
        lambda given, *parts: log_partition(given, lengths, Scores(*parts)) - path_scores(
            given, tags, lengths, Scores(*parts)), inputs)


def test_the_chosen_positions_move_to_the_front():
    values = torch.arange(12).view(2, 6)
    chosen = torch.tensor([[0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 1, 0]], dtype=torch.bool)
    assert pack(values, chosen)[0].tolist() == [1, 2, 5]
    assert pack(values, chosen)[1, 0] == 10
    assert torch.equal(pack(torch.stack([values, -values], -1), chosen)[0, :, 1], -pack(values, chosen)[0])


def test_parameters_have_names_and_shapes_of_published_weights():
    parameters = dict(ConditionalRandomField(7).named_parameters())
    assert {name: tuple(value.shape) for name, value in parameters.items()} == {
        "start_transitions": (7,), "end_transitions": (7,), "transitions": (7, 7)}
    assert all(value.abs().max() <= 0.1 and value.std() > 0.01 for value in parameters.values())
