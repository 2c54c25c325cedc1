import torch

from uer.layers.dropout import Dropout, dropout, dropout_add


def test_elements_are_zeroed_or_scaled():
    torch.manual_seed(1)
    x = torch.rand(700, 37) + 1
    dropped = dropout(x, 0.25)
    kept = dropped != 0
    assert abs(kept.double().mean().item() - 0.75) < 0.01
    torch.testing.assert_close(dropped[kept], x[kept] / 0.75, rtol=1e-4, atol=0)


def test_gradient_is_that_of_the_same_mask():
    torch.manual_seed(1)
    x, residual, grad = torch.rand(3, 70, 37, dtype=torch.float64).unbind()
    x.requires_grad_()
    residual.requires_grad_()
    output = dropout_add(x, residual, 0.25)
    output.backward(grad)
    factor = ((output - residual) / x).detach()
    torch.testing.assert_close(x.grad, grad * factor)
    torch.testing.assert_close(residual.grad, grad)

    x.grad = None
    dropped = dropout(x, 0.25)
    dropped.backward(grad)
    torch.testing.assert_close(x.grad, grad * (dropped / x).detach())


def test_joined_with_the_residual_sum_it_is_the_same():
    x, residual = torch.rand(70, 37), torch.rand(70, 37)
    torch.manual_seed(5)
    apart = dropout(x, 0.1) + residual
    torch.manual_seed(5)
    torch.testing.assert_close(dropout_add(x, residual, 0.1), apart)


def test_nothing_is_dropped_in_evaluation_or_at_zero():
    x, residual = torch.rand(7, 13), torch.rand(7, 13)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x, residual), x + residual)
    assert not torch.equal(Dropout(0.5)(x), x)


def test_inputs_are_left_alone():
    x, residual = torch.ones(7, 13), torch.ones(7, 13)
    dropout_add(x, residual, 0.5)
    dropout(x, 0.5)
    assert torch.equal(x, torch.ones(7, 13)) and torch.equal(residual, torch.ones(7, 13))
