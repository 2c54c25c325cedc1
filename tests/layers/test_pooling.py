"""One vector a row, beside loops over rows."""

import torch

from uer.layers.pooling import pool, pooled_position

# Unlike sizes: 3 rows of 5 positions, of which 5, 1 and 3 are real, hidden states of 7.
REAL = torch.arange(5) < torch.tensor([5, 1, 3])[:, None]
HIDDEN = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1))


def test_mean_and_max_are_those_of_the_real_tokens():
    for how, of_row in (("mean", lambda states: states.mean(0)), ("max", lambda states: states.max(0).values)):
        expected = torch.stack([of_row(states[:real.sum()]) for states, real in zip(HIDDEN, REAL)])
        torch.testing.assert_close(pool(HIDDEN, REAL, how), expected)


def test_the_tokens_of_first_and_last():
    assert pooled_position(REAL, "first").tolist() == [[0], [0], [0]]
    assert pooled_position(REAL, "last").tolist() == [[4], [0], [2]]
