"""Linear layers under autocast to bfloat16 on a CPU."""

import pytest
import torch
from torch.nn import functional as F

from tests.tools.closeness import assert_close_in_bf16
from uer.layers import recompute
from uer.layers.cpu import linear as module
from uer.layers.cpu.linear import rounded_rows, takes
from uer.layers.linear import Linear

BF16 = torch.bfloat16


def test_few_numbers_of_rows_occur():
    rounded = [rounded_rows(rows) for rows in range(1, 4097)]
    assert all(more - rows >= 0 for rows, more in zip(range(1, 4097), rounded))
    assert all(more <= 1.125 * rows for rows, more in zip(range(1, 4097), rounded) if rows >= 128)
    assert len({more for more in rounded if 1024 < more <= 2048}) == 8
    assert [rounded_rows(rows) for rows in (0, 1, 100, 128, 129, 1884)] == [0, 16, 112, 128, 144, 1920]


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("shape", [(37, 13), (2, 5, 13), (16, 13), (0, 13)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_linear_layer_to_the_rounding_of_its_factors(shape, dtype, bias):
    torch.manual_seed(0)
    layer = Linear(13, 7, bias)
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(shape).to(dtype).requires_grad_()
    grad = torch.randn(*shape[:-1], 7).to(BF16)
    with torch.autocast("cpu", BF16):
        output = layer(x)
    assert output.dtype == BF16 and output.shape == grad.shape
    ours = torch.autograd.grad(output, (x, *layer.parameters()), grad)
    assert [each.dtype for each in ours] == [dtype] + [torch.float32] * (2 if bias else 1)
    exact = [each.detach().double().requires_grad_() for each in (x, *layer.parameters())]
    expected = F.linear(*exact)
    if output.numel():
        assert_close_in_bf16((output, *ours), (expected, *torch.autograd.grad(expected, exact, grad.double())))
    else:
        assert not any(each.abs().sum() for each in ours)


def test_what_is_frozen_gets_no_gradient():
    layer, x = Linear(13, 7).requires_grad_(False), torch.randn(5, 13, requires_grad=True)
    with torch.autocast("cpu", BF16):
        layer(x).sum().backward()
        assert layer(x.detach()).requires_grad is False
    assert layer.weight.grad is None and layer.bias.grad is None and x.grad is not None


@pytest.mark.parametrize("shape", [(37, 13), (2, 5, 13), (16, 13)])
def test_its_result_may_be_changed_in_place(shape):
    layer, x = Linear(13, 7), torch.randn(shape)
    with torch.autocast("cpu", BF16):
        torch.relu_(layer(x)).sum().backward()
        (found, layer.weight.grad) = (layer.weight.grad, None)
        torch.relu(layer(x)).sum().backward()
    assert torch.equal(found, layer.weight.grad)


def test_one_shape_serves_batches_of_similar_size(monkeypatch):
    """oneDNN compiles a kernel for each shape that reaches it."""
    seen, product = set(), F.linear

    def noting(x, weight, bias):
        seen.add(tuple(x.shape))
        return product(x, weight, bias)

    monkeypatch.setattr(module.F, "linear", noting)
    with torch.autocast("cpu", BF16):
        for rows in range(230, 256):
            assert Linear(13, 7)(torch.randn(rows, 13)).shape == (rows, 7)
    assert seen == {(240, 13), (256, 13)}


def test_it_serves_under_autocast_to_bfloat16_alone():
    x, weight = torch.zeros(3, 5), torch.nn.Parameter(torch.zeros(2, 5))
    assert not takes(x, weight)
    with torch.autocast("cpu", BF16):
        assert takes(x, weight) and takes(x.to(BF16), weight)
        assert not takes(x.double(), weight) and not takes(x.to("meta"), weight)
        assert not takes(torch.nn.Parameter(x), weight)  # other subclasses too: distributed and fake tensors
    with torch.autocast("cpu", torch.float16):
        assert not takes(x, weight)


@pytest.mark.parametrize("rows", [16, 37])
def test_selective_checkpointing_keeps_its_product(rows):
    """What a checkpoint keeps must not be changed afterwards, and gives the same gradients."""
    layer, gradients = Linear(13, 7), []
    for mode in (recompute.OFF, recompute.SELECTIVE):
        x = torch.linspace(-1, 1, rows * 13).view(rows, 13).requires_grad_()
        with torch.autocast("cpu", BF16):
            recompute.run(layer, mode, x).square().sum().backward()
        gradients.append((x.grad, layer.weight.grad, layer.bias.grad))
        layer.zero_grad()
    assert all(torch.equal(*pair) for pair in zip(*gradients))
