import math

import pytest
import torch

from tests.tools.closeness import assert_close_in_bf16
from uer.layers import distillation
from uer.layers.cpu import blocked_loss
from uer.layers.cross_entropy import linear_cross_entropy
from uer.layers.distillation import SoftTargets, linear_distillation

FIGURES = ("objective", "hard", "soft")


def _inputs(rows=13, size=7, entries=37, dtype=torch.float64):
    torch.manual_seed(rows)
    shapes = ((rows, size), (entries, size), entries)
    student = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    teacher = [torch.randn(shape, dtype=dtype) for shape in ((rows, 5), (entries, 5), entries)]
    return student, torch.randint(0, entries, (rows,)), teacher


def _naive(student, labels, teacher, temperature, alpha):
    """Row by row, as the formula is written."""
    hard = soft = 0.0
    for row, label in enumerate(labels.tolist()):
        if label == -100:
            continue
        logits = student[1] @ student[0][row] + student[2]
        teacher_logits = teacher[1] @ teacher[0][row] + teacher[2]
        hard = hard - logits.log_softmax(0)[label]
        teacher_probs = (teacher_logits / temperature).softmax(0)
        log_probs = (logits / temperature).log_softmax(0)
        soft = soft + temperature**2 * (teacher_probs * (teacher_probs.log() - log_probs)).sum()
    return (1 - alpha) * hard + alpha * soft, hard, soft


def test_by_hand():
    """Two entries: a teacher of (3/4, 1/4), a student of (1/2, 1/2) and the label 0."""
    teacher = SoftTargets(torch.ones(1, 1), torch.tensor([[math.log(3.0)], [0.0]]), torch.zeros(2), 1.0, 0.25)
    found = linear_distillation(torch.ones(1, 1), torch.zeros(2, 1), torch.zeros(2), torch.tensor([0]), teacher)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert found.soft.item() == pytest.approx(divergence, abs=1e-6) == pytest.approx(0.130812, abs=1e-6)
    assert found.hard.item() == pytest.approx(math.log(2.0))
    assert found.objective.item() == pytest.approx(0.75 * math.log(2.0) + 0.25 * divergence)
    assert found.correct == 0.5  # both logits are equal
    hotter = SoftTargets(teacher.hidden, teacher.weight, teacher.bias, 2.0, 1.0)  # at T 2 the odds 3 become sqrt(3)
    found = linear_distillation(torch.ones(1, 1), torch.zeros(2, 1), torch.zeros(2), torch.tensor([0]), hotter)
    prob = math.sqrt(3.0) / (1 + math.sqrt(3.0))
    divergence = prob * math.log(2 * prob) + (1 - prob) * math.log(2 * (1 - prob))
    assert found.soft.item() == pytest.approx(4 * divergence, abs=1e-6)


@pytest.mark.parametrize("temperature, alpha", [(1.0, 0.5), (3.0, 0.25), (0.5, 1.0), (2.0, 0.0)])
@pytest.mark.parametrize("block", [1, 100, 6 * 2**20])
def test_values_and_gradients_are_the_formulas(temperature, alpha, block, monkeypatch):
    monkeypatch.setattr(blocked_loss, "BLOCK_ELEMENTS", block)
    student, labels, teacher = _inputs()
    labels[3:5] = -100
    expected = _naive(student, labels, teacher, temperature, alpha)
    expected_gradients = torch.autograd.grad(expected[0] * 0.37, student)
    blocked = linear_distillation(*student, labels, SoftTargets(*teacher, temperature, alpha))
    with monkeypatch.context() as patched:
        patched.setattr(distillation, "usable", lambda tensor: False)  # as on a GPU
        plain = linear_distillation(*student, labels, SoftTargets(*teacher, temperature, alpha))
    for found, tolerance in ((blocked, 1e-9), (plain, 1e-5)):  # the plain form computes in float32
        for name, value in zip(FIGURES, expected):
            ours = getattr(found, name).detach().double()
            torch.testing.assert_close(ours, value.detach(), rtol=tolerance, atol=tolerance)
        for ours, theirs in zip(torch.autograd.grad(found.objective * 0.37, student), expected_gradients):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert blocked.correct == plain.correct


@pytest.mark.parametrize("block", [211 * 5, 6 * 2**20])
def test_under_autocast_it_is_close(block, monkeypatch):
    monkeypatch.setattr(blocked_loss, "BLOCK_ELEMENTS", block)
    student, labels, teacher = _inputs(rows=61, size=32, entries=211, dtype=torch.float32)
    labels[7:9] = -100
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_distillation(*student, labels, SoftTargets(*teacher, 2.0, 0.6))
    exact = [value.detach().double().requires_grad_() for value in student]
    expected = _naive(exact, labels, [value.double() for value in teacher], 2.0, 0.6)
    for name, value in zip(FIGURES, expected):
        torch.testing.assert_close(getattr(found, name).double(), value, rtol=1e-2, atol=0)
    assert_close_in_bf16(torch.autograd.grad(found.objective, student), torch.autograd.grad(expected[0], exact))


def test_the_gradient_is_that_of_finite_differences():
    student, labels, teacher = _inputs(rows=3, size=4, entries=5)
    soft, step = SoftTargets(*teacher, 1.7, 0.6), 1e-6
    gradients = torch.autograd.grad(linear_distillation(*student, labels, soft).objective, student)
    for part, gradient in zip(student, gradients):
        for number in range(part.numel()):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    part.view(-1)[number] += sign * step
                    sides.append(linear_distillation(*student, labels, soft).objective.item())
                    part.view(-1)[number] -= sign * step
            assert gradient.view(-1)[number].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-6)


def test_without_weight_the_teacher_changes_no_bit():
    student, labels, teacher = _inputs(rows=29, size=16, entries=211, dtype=torch.float32)
    plain, correct = linear_cross_entropy(*student, labels)
    found = linear_distillation(*student, labels, SoftTargets(*teacher, 2.0, 0.0))
    assert torch.equal(found.objective, plain) and found.correct == correct
    for ours, theirs in zip(torch.autograd.grad(found.objective, student), torch.autograd.grad(plain, student)):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_teacher_that_says_the_same_teaches_nothing(temperature):
    student, labels, _ = _inputs(dtype=torch.float32)
    found = linear_distillation(*student, labels, SoftTargets(*(part.detach() for part in student), temperature, 1.0))
    assert abs(found.soft.item()) < 1e-4
    assert all(gradient.abs().max() < 1e-5 for gradient in torch.autograd.grad(found.objective, student))


def test_biases_may_be_missing():
    student, labels, teacher = _inputs()
    nothing = [torch.zeros_like(student[2]), torch.zeros_like(teacher[2])]
    expected = linear_distillation(*student[:2], nothing[0], labels, SoftTargets(*teacher[:2], nothing[1], 2.0, 0.4))
    expected_gradients = torch.autograd.grad(expected.objective, student[:2])
    found = linear_distillation(*student[:2], None, labels, SoftTargets(*teacher[:2], None, 2.0, 0.4))
    torch.testing.assert_close(found.objective, expected.objective)
    for ours, theirs in zip(torch.autograd.grad(found.objective, student[:2]), expected_gradients):
        torch.testing.assert_close(ours, theirs)


def test_no_predictions_are_no_loss():
    student, labels, teacher = _inputs()
    found = linear_distillation(*student, torch.full_like(labels, -100), SoftTargets(*teacher, 1.0, 0.5))
    assert found.objective == found.soft == found.correct == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(found.objective, student))
