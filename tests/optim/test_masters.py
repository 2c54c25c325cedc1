"""bfloat16 weights whose float32 masters are updated."""

import copy

import pytest
import torch
from torch import nn

from uer.optim import AdamW, parameter_groups
from uer.optim.masters import narrow_linear_layers


class Tied(nn.Module):
    """An embedding, a norm, a linear layer, and an output layer with the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(37, 13), nn.LayerNorm(13)
        self.linear, self.output = nn.Linear(13, 13), nn.Linear(13, 37)
        self.output.weight = self.embedding.weight

    def forward(self, src):
        return self.output(self.linear(self.norm(self.embedding(src)))).square().mean()


def test_linear_layers_are_rounded_and_nothing_else():
    model = Tied()
    before = copy.deepcopy(model.state_dict())
    masters = narrow_linear_layers(model)
    assert set(masters) == {model.linear.weight, model.linear.bias}
    for name, value in model.state_dict().items():
        rounded = name.startswith("linear")
        assert value.dtype == (torch.bfloat16 if rounded else torch.float32)
        assert torch.equal(value, before[name].bfloat16() if rounded else before[name])
    assert torch.equal(masters[model.linear.weight], before["linear.weight"])
    assert model.output.weight is model.embedding.weight


@pytest.mark.parametrize("capturable", [False, True])
def test_updates_are_those_of_float32_weights(capturable):
    """With small steps, most of which bfloat16 weights alone would not take. The gradients are given: the same."""
    torch.manual_seed(1)
    wide = Tied()
    narrow = copy.deepcopy(wide)
    masters = narrow_linear_layers(narrow)
    first = narrow.linear.weight.detach().clone()
    optimizers = [AdamW(parameter_groups(model), lr=1e-5, capturable=capturable) for model in (wide, narrow)]
    optimizers[1].masters = masters
    for step in range(5):
        for one, other in zip(wide.parameters(), narrow.parameters()):
            other.grad = torch.randn_like(one).to(other.dtype)
            one.grad = other.grad.float().clone()  # the optimizer divides gradients in place
        for optimizer in optimizers:
            optimizer.grad_scale = torch.tensor(2.0)
            optimizer.found_inf = torch.tensor(float(step == 3))
            optimizer.step()
    for name, parameter in narrow.named_parameters():
        expected = wide.get_parameter(name)
        assert torch.equal(masters.get(parameter, parameter), expected)
        assert torch.equal(parameter, expected.to(parameter.dtype))
        assert {value.dtype for value in optimizers[1].state[parameter].values()} == {torch.float32}
    moved = (narrow.linear.weight != first).double().mean()
    assert 0 < moved < 0.5, "most updates are below bfloat16's resolution, and only the masters remember them"
