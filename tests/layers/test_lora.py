"""Adapters of linear layers: the formula, the start, the gradient, merging, and which layers get one."""

import pytest
import torch
from torch import nn

from tests.tools.configs import model_config
from uer.layers.linear import Linear
from uer.layers.lora import LoraLinear, adapted_layers, adapters_side_by_side, add_adapters, is_adapter, merged
from uer.model import build_model


def tiny_model(**changes):
    torch.manual_seed(3)
    return build_model(model_config(**{"emb_size": 16, "hidden_size": 16, "feedforward_size": 32, "heads_num": 2,
                                       "layers_num": 2, "dropout": 0.0, "max_seq_length": 24,
                                       "embedding": ["word", "pos", "seg"], "target": ["mlm"], **changes}), 27)


def rows(count: int = 3, length: int = 9):
    """src and seg (count, length)."""
    torch.manual_seed(5)
    return torch.randint(5, 27, (count, length)), torch.ones(count, length, dtype=torch.long)


def test_a_case_by_hand():
    """y = 2 x + (4 / 2) b (a x) with a = (1, 3) and b = (5, 7): at x = 1, y = 2 + 2 (1 * 5 + 3 * 7) = 54.

    dy/da = 2 b x = (10, 14), dy/db = 2 a x = (2, 6), dy/dx = 54, and the frozen weight has no gradient.
    """
    plain = Linear(1, 1, bias=False)
    layer = LoraLinear(plain, rank=2, alpha=4.0, dropout=0.0)
    layer.weight.requires_grad_(False)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.lora_A.copy_(torch.tensor([[1.0], [3.0]]))
        layer.lora_B.copy_(torch.tensor([[5.0, 7.0]]))
    x = torch.ones(1, 1, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.item() == 54.0
    assert layer.lora_A.grad.tolist() == [[10.0], [14.0]]
    assert layer.lora_B.grad.tolist() == [[2.0, 6.0]]
    assert x.grad.item() == 54.0
    assert layer.weight.grad is None
    assert merged(layer.state_dict() | {"": plain.weight}, 4.0)[""] is plain.weight  # other names stay


def test_the_numbers_of_torch():
    """The layer of full rank equals the sum of two linear layers."""
    torch.manual_seed(1)
    plain, down, up = nn.Linear(5, 7), nn.Linear(5, 3, bias=False), nn.Linear(3, 7, bias=False)
    layer = LoraLinear(plain, rank=3, alpha=6.0, dropout=0.0)
    with torch.no_grad():
        layer.lora_A.copy_(down.weight)
        layer.lora_B.copy_(up.weight)
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(layer(x), plain(x) + 2.0 * up(down(x)))
    weights = {f"q.{name}": value for name, value in layer.state_dict().items()}
    together = nn.Linear(5, 7)
    together.load_state_dict({name.removeprefix("q."): value for name, value in merged(weights, 6.0).items()})
    torch.testing.assert_close(layer(x), together(x))


def test_dropout_changes_the_adapters_input_alone():
    torch.manual_seed(1)
    layer = LoraLinear(nn.Linear(64, 4), rank=2, alpha=2.0, dropout=0.5)
    x = torch.randn(3, 64)
    assert torch.equal(layer(x), layer.eval()(x))  # B is zero
    nn.init.ones_(layer.lora_B)
    exact = layer(x)
    assert torch.equal(layer(x), exact)
    assert not torch.allclose(layer.train()(x), exact)


@pytest.mark.parametrize("settings", [{}, {"mask": "causal", "target": ["lm"], "layernorm_positioning": "pre"},
                                      {"parameter_sharing": True}, {"remove_transformer_bias": True}])
def test_an_adapted_model_starts_as_the_plain_one_and_merges_into_one(settings):
    model, (src, seg) = tiny_model(**settings).eval(), rows()
    plain = model.encode(src, seg)
    names = [*model.state_dict()]
    found = add_adapters(model, ("encoder",), ("all-linear",), 4, 8.0, 0.1)
    assert torch.equal(model.encode(src, seg), plain)
    assert {name for name in model.state_dict() if not is_adapter(name)} == set(names)
    assert adapted_layers(model.state_dict()) == found["all-linear"]
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            nn.init.normal_(parameter, 0.0, 0.1)
    other = tiny_model(**settings).eval()
    other.load_state_dict(merged(model.state_dict(), 8.0))
    adapted = model.encode(src, seg)
    assert (adapted - plain).abs().max() > 1e-3
    torch.testing.assert_close(other.encode(src, seg), adapted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("numbers", [(0, 2), (1,), (0, 1, 2)])
def test_layers_side_by_side_are_those_one_by_one(numbers):
    torch.manual_seed(1)
    plain = [nn.Linear(5, width) for width in (4, 2, 3)]
    layers = [LoraLinear(layer, 2, 6.0, 0.0) if number in numbers else layer for number, layer in enumerate(plain)]
    for number in numbers:
        nn.init.normal_(layers[number].lora_B)
    x = torch.randn(7, 5)
    found = torch.cat([layer(x) for layer in plain], dim=-1) + adapters_side_by_side(layers, x)
    torch.testing.assert_close(found, torch.cat([layer(x) for layer in layers], dim=-1))


def test_targets_are_parts_of_names():
    model = tiny_model()
    found = add_adapters(model, ("encoder",), ("linear_layers.0", "linear_1", "nothing"), 2, 4.0, 0.0)
    assert found["linear_layers.0"] == [f"encoder.transformer.{n}.self_attn.linear_layers.0" for n in (0, 1)]
    assert found["linear_1"] == [f"encoder.transformer.{n}.feed_forward.linear_1" for n in (0, 1)]  # not target.mlm's
    assert found["nothing"] == []
    shared = tiny_model(parameter_sharing=True)
    add_adapters(shared, ("encoder",), ("self_attn", "linear_layers.0"), 2, 4.0, 0.0)
    assert sum(isinstance(module, LoraLinear) for module in shared.modules()) == 4
