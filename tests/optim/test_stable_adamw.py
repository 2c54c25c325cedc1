"""StableAdamW against its algorithm written by hand; what it shares with AdamW; no wait for the device."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from uer.config import OptimConfig
from uer.optim import AdamW, StableAdamW, build_optimizer, set_learning_rate, stable_adamw
from uer.optim.masters import narrow_linear_layers

SHAPES = [(7, 5), (13,), (3, 4, 5), (1,), (37, 32)]
SIZES = (1.0, 1.1, 0.2, 40.0, 1.0, 0.01, 300.0)
"""Of the gradients of one update after another: some are much larger than those before them."""


def parameters(dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype).to(device)) for shape in SHAPES]


def give_gradients(params, step, scale=1.0):
    generator = torch.Generator().manual_seed(step)
    for parameter in params:
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * SIZES[step % len(SIZES)]
        parameter.grad = (drawn * scale).to(parameter)


def by_hand(value, gradient, m, v, rate, decay, beta1=0.9, beta2=0.999, eps=1e-6):
    """Algorithm 2 of Wortsman et al. with the betas as they are: new values of the parameter, m and v, and rms."""
    m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
    rms = float((gradient**2 / v.clamp(min=eps**2)).mean().sqrt())
    rate /= max(1.0, rms)
    return (value - rate * m / (v.sqrt() + eps)) * (1 - rate * decay), m, v, rms


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_follows_its_algorithm(capturable, dtype):
    params = parameters(dtype)
    optimizer = StableAdamW([{"params": params[:3], "weight_decay": 0.1}, {"params": params[3:]}], lr=0.0,
                            capturable=capturable)
    expected = [(p.detach().double().clone(), *torch.zeros(2, *p.shape, dtype=torch.float64)) for p in params]
    found = []
    for step in range(len(SIZES)):
        rate = 1e-2 / (step + 1)
        set_learning_rate(optimizer, rate)
        give_gradients(params, step)
        gradients = [p.grad.double() for p in params]
        optimizer.step()
        for number, (parameter, gradient) in enumerate(zip(params, gradients)):
            *expected[number], rms = by_hand(expected[number][0], gradient, *expected[number][1:], rate,
                                             0.1 if number < 3 else 0.0)
            torch.testing.assert_close(parameter.double(), expected[number][0], rtol=1e-5, atol=1e-5)
            found.append(rms)
    assert min(found) < 1.0 < 5.0 < max(found), "both sides of the maximum were met"


def test_equals_adamw_where_gradients_do_not_grow():
    """While rms is at most 1, as with v of larger gradients, nothing is divided."""
    ours, theirs = parameters(), parameters()
    optimizers = [kind([{"params": params, "weight_decay": 0.01}], lr=1e-2, capturable=True)
                  for kind, params in ((StableAdamW, ours), (AdamW, theirs))]
    for optimizer, params in zip(optimizers, (ours, theirs)):
        for parameter in params:
            optimizer.state[parameter] = {"exp_avg": torch.ones_like(parameter),
                                          "exp_avg_sq": torch.full_like(parameter, 1e4)}
        give_gradients(params, 0)
        optimizer.step()
    for one, two in zip(ours, theirs):
        assert torch.equal(one, two)


def test_one_update_of_a_larger_gradient_is_as_large_as_others():
    """After 3,000 gradients of 1, one of 100: AdamW moves by 10.9 / 3.32 = 3.3 learning rates, this by a 30th."""
    moved = {}
    for kind in (AdamW, StableAdamW):
        parameter = nn.Parameter(torch.zeros(4, 4))
        optimizer = kind([parameter], lr=1.0)
        optimizer.state[parameter] = {"exp_avg": torch.ones(4, 4), "exp_avg_sq": torch.ones(4, 4)}
        parameter.grad = torch.full((4, 4), 100.0)
        optimizer.step()
        moved[kind] = -float(parameter.detach()[0, 0])
    assert moved[AdamW] == pytest.approx(10.9 / 10.999**0.5, rel=1e-4)
    assert moved[StableAdamW] == pytest.approx(moved[AdamW] / (100 / 10.999**0.5), rel=1e-4)


@pytest.mark.parametrize("capturable", [False, True])
def test_divides_by_the_scale_and_leaves_out_what_is_not_finite(capturable):
    plain, scaled = parameters(), parameters()
    first, second = (StableAdamW([{"params": params, "weight_decay": 0.1}], lr=1e-2, capturable=capturable)
                     for params in (plain, scaled))
    for step in range(3):
        give_gradients(plain, step)
        give_gradients(scaled, step, scale=1024.0)
        second.grad_scale, second.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
        first.step()
        second.step()
    for one, two in zip(plain, scaled):
        assert torch.equal(one, two)
    before = copy.deepcopy([(p.detach(), second.state[p]) for p in scaled])
    give_gradients(scaled, 3)
    scaled[0].grad[0, 0] = torch.inf
    second.found_inf = torch.tensor(1.0)
    second.step()
    for parameter, (value, state) in zip(scaled, before):
        assert torch.equal(parameter, value)
        assert all(torch.equal(second.state[parameter][name], state[name]) for name in state)


def test_masters_are_updated_as_float32_weights():
    torch.manual_seed(0)
    wide, narrow = nn.Sequential(nn.Linear(9, 9)), nn.Sequential(nn.Linear(9, 9))
    narrow.load_state_dict(wide.state_dict())
    masters = narrow_linear_layers(narrow)
    optimizers = [build_optimizer(OptimConfig(optimizer="stableadamw", learning_rate=1e-5), model)
                  for model in (wide, narrow)]
    optimizers[1].masters = masters
    for step in range(4):
        for one, other in zip(wide.parameters(), narrow.parameters()):
            other.grad = (torch.randn_like(one) * SIZES[step]).bfloat16()
            one.grad = other.grad.float()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(wide.parameters(), narrow.parameters()):
        assert torch.equal(masters[other], one) and torch.equal(other, one.bfloat16())


def test_goes_on_from_a_state_of_adamw():
    params = parameters()
    before = AdamW(params, lr=1e-2)
    give_gradients(params, 0)
    before.step()
    after = StableAdamW(params, lr=1e-2)
    after.load_state_dict(before.state_dict())
    moments = copy.deepcopy(after.state[params[0]])
    give_gradients(params, 1)
    gradient, value = params[0].grad.clone(), params[0].detach().clone()
    after.step()
    expected, *_ = by_hand(value, gradient, moments["exp_avg"], moments["exp_avg_sq"], 1e-2, 0.0)
    torch.testing.assert_close(params[0].detach(), expected, rtol=1e-5, atol=1e-6)


def test_parts_of_parameters_are_measured_together():
    """Two ranks with unlike parts of a parameter, of which one part is empty, update them as one rank the whole."""
    whole = nn.Parameter(torch.linspace(-1, 1, 12).view(4, 3))
    other = nn.Parameter(torch.ones(2, 3))
    ranks = [[nn.Parameter(whole.detach()[:3].clone()), nn.Parameter(other.detach().clone())],
             [nn.Parameter(whole.detach()[3:].clone()), nn.Parameter(torch.ones(0, 3))]]
    alone = StableAdamW([whole, other], lr=0.1)
    optimizers = [StableAdamW(params, lr=0.1) for params in ranks]
    whole.grad, other.grad = torch.arange(12.0).view(4, 3).square(), torch.full((2, 3), 7.0)
    for params, part in zip(ranks, (slice(0, 3), slice(3, 4))):
        params[0].grad = whole.grad[part].clone()
        params[1].grad = torch.full_like(params[1], 7.0)
    sent, both_sent = [], threading.Barrier(2, timeout=60)

    def sum_(tensor):
        sent.append(tensor)
        both_sent.wait()
        return sent[0] + sent[1]

    for optimizer in optimizers:
        optimizer.sum_ = sum_
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(StableAdamW.step, optimizers))
    alone.step()
    torch.testing.assert_close(torch.cat([ranks[0][0], ranks[1][0]]), whole)
    torch.testing.assert_close(ranks[0][1], other)


@pytest.mark.parametrize("scale", [None, 8.0])
def test_both_ways_to_add_up_agree(scale, monkeypatch):
    """GPUs take few kernels for all parameters, CPUs small pieces of each, here of 100 elements."""
    monkeypatch.setattr(stable_adamw, "PIECE", 100)
    params = parameters()
    give_gradients(params, 3)
    gradients, second = [p.grad for p in params], [p.detach().square() for p in params]
    second[0].zero_()
    gradients[0][0] = 0.0  # where nothing was ever learned
    arguments = gradients, second, 0.98, 1e-12, None if scale is None else torch.tensor(scale)
    pairs = [(g.double().square() / (scale or 1.0) ** 2, v.double()) for g, v in zip(gradients, second)]
    expected = torch.stack([(squares / (0.98 * v + 0.02 * squares).clamp(min=1e-12)).sum() for squares, v in pairs])
    for way in (stable_adamw.together, stable_adamw.in_pieces):
        torch.testing.assert_close(way(*arguments).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_host_never_waits_for_a_gpu(monkeypatch):
    """Of fake tensors nobody can read a value: an update that asked for one would raise. The kernel, which is AdamW's,
    has no fake; what it gets are a tensor of its own for each parameter's learning rate."""
    rates = []
    monkeypatch.setattr(stable_adamw, "fused_update", lambda group, rows, rate, *_: rates.append((len(rows), rate)))
    with FakeTensorMode():
        params = [nn.Parameter(torch.empty(shape, device="cuda")) for shape in SHAPES]
        optimizer = StableAdamW([{"params": params, "weight_decay": 0.1}], lr=1e-2, capturable=True)
        optimizer.grad_scale, optimizer.found_inf = (torch.empty((), device="cuda") for _ in range(2))
        for _ in range(2):
            for parameter in params:
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
        assert [(count, rate.shape, rate.device.type, rate.dtype) for count, rate in rates] == [
            (1, torch.Size(()), "cuda", torch.float32)] * 2 * len(SHAPES)
