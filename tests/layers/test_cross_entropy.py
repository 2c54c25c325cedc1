import pytest
import torch
from torch.nn import functional as F

from tests.tools.closeness import assert_close_in_bf16
from uer.layers import cross_entropy
from uer.layers.cpu import blocked_loss as module
from uer.layers.cross_entropy import linear_cross_entropy


def _inputs(rows=13, size=7, entries=37, dtype=torch.float64, scale=1.0):
    torch.manual_seed(rows)
    hidden = torch.randn(rows, size, dtype=dtype).mul_(scale).requires_grad_()
    weight = torch.randn(entries, size, dtype=dtype, requires_grad=True)
    bias = torch.randn(entries, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, entries, (rows,))
    return hidden, weight, bias, labels


def _plain(hidden, weight, bias, labels):
    logits = F.linear(hidden, weight, bias)
    correct = ((logits.argmax(-1) == labels) & (labels != -100)).sum()
    return F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"), correct


@pytest.mark.parametrize("block", [1, 100, 6 * 2**20])
@pytest.mark.parametrize("ignored", [0, 4, 13])
def test_loss_accuracy_and_gradients_equal_the_plain_form(block, ignored, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    *inputs, labels = _inputs()
    hidden, weight, bias = inputs
    labels[5] = F.linear(hidden, weight, bias)[5].argmax()  # at least one is right
    labels[:ignored] = -100
    loss, correct = linear_cross_entropy(*inputs, labels)
    expected, expected_correct = _plain(*inputs, labels)
    torch.testing.assert_close(loss, expected)
    assert correct == expected_correct
    ours = torch.autograd.grad(loss * 0.37, inputs)
    for our, their in zip(ours, torch.autograd.grad(expected * 0.37, inputs)):
        torch.testing.assert_close(our, their)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_float32_is_as_exact_as_the_plain_form(scale):
    """Even where the label's probability underflows to 0, its logarithm does not."""
    *inputs, labels = _inputs(rows=29, size=16, entries=211, dtype=torch.float32, scale=scale)
    loss, _ = linear_cross_entropy(*inputs, labels)
    exact, _ = _plain(*(value.double() for value in inputs), labels)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)
    ours = torch.autograd.grad(loss, inputs)
    for our, their in zip(ours, torch.autograd.grad(exact, inputs)):
        torch.testing.assert_close(our, their.float(), rtol=1e-4, atol=1e-4)


def test_without_gradients_only_the_figures_are_computed():
    *inputs, labels = _inputs()
    with torch.no_grad():
        loss, correct = linear_cross_entropy(*inputs, labels)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, _plain(*inputs, labels)[0].detach())
    assert correct == _plain(*inputs, labels)[1]


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_has_no_gradient_and_changes_no_other(frozen):
    torch.manual_seed(2)
    tensors = [torch.randn(7, 5), torch.randn(11, 5), torch.randn(11)]
    labels, found = torch.arange(7), []
    for kept in (None, frozen):
        given = [tensor.clone().requires_grad_(number != kept) for number, tensor in enumerate(tensors)]
        linear_cross_entropy(*given, labels)[0].backward()
        found.append([tensor.grad for tensor in given])
    assert found[1][frozen] is None
    assert all(torch.equal(*pair) for number, pair in enumerate(zip(*found)) if number != frozen)


def test_gradients_cannot_be_taken_twice():
    *inputs, labels = _inputs()
    loss, _ = linear_cross_entropy(*inputs, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="once"):
        loss.backward()


@pytest.mark.parametrize("block", [211 * 5, 6 * 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_products_are_in_bfloat16_and_sums_in_float32(dtype, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    hidden, weight, bias, labels = _inputs(rows=61, size=32, entries=211, dtype=torch.float32, scale=0.3)
    labels[7:9] = -100
    hidden = hidden.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = linear_cross_entropy(hidden, weight, bias, labels, 0.1)
    ours = torch.autograd.grad(loss, (hidden, weight, bias))
    assert loss.dtype == torch.float32 and [gradient.dtype for gradient in ours] == [dtype, *[torch.float32] * 2]
    exact = [value.detach().double().requires_grad_() for value in (hidden, weight, bias)]
    expected = _smoothed(*exact, labels, 0.1)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-2, atol=0)
    assert_close_in_bf16(ours, torch.autograd.grad(expected, exact))


def test_of_equal_logits_the_label_is_on_top_half_the_time():
    logits = torch.tensor([[2.0, 2.0, 1.0], [2.0, 2.0, 1.0], [3.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    probs, losses, _, correct = module.softmax_nll(logits.clone(), torch.tensor([[0], [1], [0], [0]]))
    assert correct == 0.5 + 0.5 + 1 + 0
    torch.testing.assert_close(probs, logits.softmax(1))
    torch.testing.assert_close(losses[:, 0], F.cross_entropy(logits, torch.tensor([0, 1, 0, 0]), reduction="none"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_many_blocks_add_up_in_float32_under_autocast(dtype):
    """1024 blocks of one row and one gradient: in bfloat16 a sum stops to grow at 256 addends."""
    hidden, weight = torch.ones(1024, 1, requires_grad=True), torch.zeros(2, 1, dtype=dtype, requires_grad=True)
    with pytest.MonkeyPatch.context() as patched, torch.autocast("cpu", torch.bfloat16):
        patched.setattr(module, "BLOCK_ELEMENTS", 2)
        loss, correct = linear_cross_entropy(hidden, weight, None, torch.zeros(1024, dtype=torch.int64))
    loss.backward()
    assert weight.grad.flatten().tolist() == [-512.0, 512.0] and weight.grad.dtype == dtype
    assert correct == 512  # each row's logits are equal


@pytest.mark.parametrize("kept", [0, 64 * 2**20])
def test_memory_that_is_used_again_changes_nothing(kept, monkeypatch):
    """After an evaluation in inference mode, and after a larger batch of a larger vocabulary with a bias."""
    monkeypatch.setattr(module, "LARGEST_KEPT", kept)
    monkeypatch.setattr(module, "_SCRATCH", module._Scratch())

    def gradients(rows, size, entries, biased):
        hidden, weight, bias, labels = _inputs(rows=rows, size=size, entries=entries, dtype=torch.float32, scale=0.3)
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = linear_cross_entropy(hidden, weight, bias if biased else None, labels)
        return torch.autograd.grad(loss, (hidden, weight))

    first = gradients(13, 20, 37, False)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        labels = torch.zeros(99, dtype=torch.int64)
        linear_cross_entropy(torch.ones(99, 50), torch.ones(211, 50), torch.ones(211), labels)
    gradients(61, 32, 211, True)
    assert all(torch.equal(one, other) for one, other in zip(first, gradients(13, 20, 37, False)))


@pytest.mark.parametrize("bf16", [False, True])
def test_without_rows_the_loss_and_all_gradients_are_zero(bf16):
    inputs = [torch.randn(shape, requires_grad=True) for shape in ((0, 7), (37, 7), (37,))]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss, correct = linear_cross_entropy(*inputs, torch.zeros(0, dtype=torch.int64))
    assert (loss, correct) == (0, 0)
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, inputs))


def test_blocks_are_even_and_bounded(monkeypatch):
    assert module.block_rows(1000, 250_002) == 63  # 16 blocks of at most 64 rows
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 1000)
    assert module.block_rows(25, 100) == 9  # 3 blocks of at most 10 rows: 9, 9, 7
    assert module.block_rows(3, 5000) == 1
    assert module.block_rows(0, 100) == 1


def _smoothed(hidden, weight, bias, labels, smoothing):
    """Row by row: the cross-entropy with the smoothed distribution, written out."""
    total, uniform = 0.0, smoothing / (len(weight) - 1)
    for row, label in enumerate(labels.tolist()):
        if label != -100:
            log_probs = F.linear(hidden[row], weight, bias).log_softmax(0)
            wanted = torch.full((len(weight),), uniform, dtype=hidden.dtype)
            wanted[label] = 1 - smoothing
            total = total - (wanted * log_probs).sum()
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("block", [100, 6 * 2**20])
def test_smoothed_labels_and_no_bias(smoothing, has_bias, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", block)
    hidden, weight, bias, labels = _inputs()
    labels[3:5] = -100
    inputs = (hidden, weight, bias) if has_bias else (hidden, weight)
    given = (hidden, weight, bias if has_bias else None)
    expected = _smoothed(*given, labels, smoothing)
    expected_gradients = torch.autograd.grad(expected * 0.37, inputs)
    blocked, correct = linear_cross_entropy(*given, labels, smoothing)
    with monkeypatch.context() as patched:
        patched.setattr(cross_entropy, "usable", lambda tensor: False)  # as on a GPU, in float32
        plain, plain_correct = linear_cross_entropy(*given, labels, smoothing)
    assert correct == plain_correct
    for found, tolerance in ((blocked, 1e-9), (plain, 1e-5)):
        torch.testing.assert_close(found.detach().double(), expected.detach(), rtol=tolerance, atol=tolerance)
        for ours, theirs in zip(torch.autograd.grad(found * 0.37, inputs), expected_gradients):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
