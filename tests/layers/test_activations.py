import math

import pytest
import torch

from uer.layers.activations import ACTIVATIONS

X = torch.linspace(-4, 4, 37, dtype=torch.float64)

FORMULAS = {
    "gelu": X * 0.5 * (1 + torch.erf(X / math.sqrt(2))),
    "gelu_fast": 0.5 * X * (1 + torch.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3))),
    "relu": X * (X > 0),
    "silu": X / (1 + torch.exp(-X)),
    "linear": X,
}


def test_every_activation_has_a_formula_here():
    assert set(FORMULAS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", FORMULAS)
def test_values(name):
    torch.testing.assert_close(ACTIVATIONS[name](X), FORMULAS[name])
