"""Linear layers; those of CPUs under autocast are in cpu/test_cpu_linear.py."""

import pytest
import torch
from torch.nn import functional as F

from uer.layers.linear import Linear, ScoreLinear


@pytest.mark.parametrize("bias", (True, False))
def test_scores_are_float32_under_autocast(bias):
    """Of 1,000 scores between 2 and 4 bfloat16 tells at most 128 apart."""
    layer, vectors = ScoreLinear(2, 1, bias=bias), torch.tensor([[1.0, step / 1024] for step in range(1000)])
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 1.0]]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, rounded = layer(vectors), F.linear(vectors, layer.weight)
    assert scores.dtype == torch.float32 and len(scores.unique()) == 1000
    assert len(rounded.unique()) < 130
    scores.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())


def test_without_autocast_a_score_layer_is_a_linear_layer():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        layer, plain = ScoreLinear(8, 3).to(dtype), Linear(8, 3).to(dtype)
        plain.load_state_dict(layer.state_dict())
        vectors = torch.randn(5, 8, dtype=dtype)
        assert torch.equal(layer(vectors), plain(vectors)) and layer(vectors).dtype == dtype
