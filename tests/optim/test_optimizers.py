"""AdamW against UER-py's trajectory and its own formulas; Adafactor against transformers."""

import copy
import functools
import inspect
import json

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from uer.config import OptimConfig, optim_identity
from uer.optim import (
    OPTIMIZERS,
    Adafactor,
    AdamW,
    Muon,
    StableAdamW,
    build_optimizer,
    check_ownership,
    parameter_groups,
    set_learning_rate,
)
from uer.optim.muon import orthogonal
from uer.runtime.threads import Split, Workers


def shapes():
    return [(7, 5), (13,), (3, 4, 5), (1,), (37, 32)]


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes()]


def give_gradients(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in params:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adamw_follows_the_original(golden, capturable, dtype):
    record = json.loads((golden / "adamw_trajectory.json").read_text())
    values = record["params_before_and_after_each_step"]
    parameter = nn.Parameter(torch.tensor(values[0], dtype=dtype))
    optimizer = AdamW([parameter], lr=record["lr"], betas=tuple(record["betas"]), eps=record["eps"],
                      weight_decay=record["weight_decay"], capturable=capturable)
    for gradient, expected in zip(record["grads"], values[1:]):
        parameter.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), torch.tensor(expected, dtype=dtype), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("capturable", "tolerance"), [(False, 1e-13), (True, 1e-7)])
def test_adamw_follows_its_formulas_while_the_rate_changes(capturable, tolerance):
    params = parameters(torch.float64)
    optimizer = AdamW([{"params": params[:3], "weight_decay": 0.01}, {"params": params[3:]}], lr=0.0,
                      capturable=capturable)
    expected = [(p.detach().clone(), torch.zeros_like(p), torch.zeros_like(p)) for p in params]
    for step in range(6):
        rate = 1e-3 * step
        set_learning_rate(optimizer, rate)
        give_gradients(params, step)
        optimizer.step()
        for number, (parameter, (value, m, v)) in enumerate(zip(params, expected)):
            m.mul_(0.9).add_(parameter.grad, alpha=0.1)
            v.mul_(0.999).add_(parameter.grad**2, alpha=0.001)
            value.sub_(rate * m / (v.sqrt() + 1e-6)).mul_(1 - rate * (0.01 if number < 3 else 0.0))
            torch.testing.assert_close(parameter.detach(), value, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", [AdamW, StableAdamW])
def test_what_a_gpu_decides_is_brought_to_parameters_on_the_host(kind):
    """--cpu_offload. Fake tensors know their devices, and refuse a kernel that mixes them."""
    with FakeTensorMode():
        params = parameters()
        give_gradients(params, 1)
        optimizer = kind(params, lr=0.1)
        optimizer.grad_scale, optimizer.found_inf = (torch.ones((), device="cuda") for _ in range(2))
        optimizer.step()


def test_a_weight_decay_of_everything_leaves_nothing():
    """1 - learning_rate * weight_decay is 0, by which the kernel's weight decay would be divided."""
    params = parameters()
    optimizer = AdamW(params, lr=100.0, weight_decay=0.01)
    give_gradients(params, 1)
    optimizer.step()
    assert all(parameter.abs().max() < 1e-5 for parameter in params)


def test_adamw_first_step_with_rate_zero_keeps_the_parameters_and_takes_the_moments():
    params = parameters()
    before = [p.detach().clone() for p in params]
    optimizer = AdamW(params, lr=0.0, weight_decay=0.01)
    give_gradients(params, 1)
    optimizer.step()
    for parameter, value in zip(params, before):
        assert torch.equal(parameter, value)
        assert optimizer.state[parameter]["exp_avg_sq"].any()


def test_adamw_divides_by_the_scale_and_skips_what_is_not_finite():
    plain, scaled = parameters(), parameters()
    first, second = AdamW(plain, lr=1e-2), AdamW(scaled, lr=1e-2)
    give_gradients(plain, 1)
    give_gradients(scaled, 1)
    for parameter in scaled:
        parameter.grad.mul_(1024.0)
    first.step()
    second.grad_scale = torch.tensor(1024.0)
    second.step()
    for one, two in zip(plain, scaled):
        assert torch.equal(one, two)
    before = [p.detach().clone() for p in scaled]
    moments = copy.deepcopy([second.state[p]["exp_avg"] for p in scaled])
    give_gradients(scaled, 2)
    scaled[0].grad[0, 0] = float("nan")
    second.found_inf = torch.tensor(1.0)
    second.step()
    for parameter, value, moment in zip(scaled, before, moments):
        assert torch.equal(parameter, value)
        assert torch.equal(second.state[parameter]["exp_avg"], moment)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumes_bit_for_bit(name, capturable, tmp_path):
    def build(params):
        return OPTIMIZERS[name]([{"params": params, "weight_decay": 0.01}], lr=1e-2, capturable=capturable)

    through = parameters()
    optimizer = build(through)
    for step in range(6):
        if step == 3:
            torch.save({"values": [p.detach().clone() for p in through], "state": optimizer.state_dict()},
                       tmp_path / "state.pt")
        give_gradients(through, step)
        optimizer.step()
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = [nn.Parameter(value) for value in saved["values"]]
    optimizer = build(resumed)
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(saved["state"])
    for group, rate in zip(optimizer.param_groups, rates):
        assert isinstance(group["lr"], torch.Tensor) == capturable
        assert not capturable or group["lr"] is rate
    for step in range(3, 6):
        give_gradients(resumed, step)
        optimizer.step()
    for one, two in zip(through, resumed):
        assert torch.equal(one, two)


@pytest.mark.parametrize("capturable", [False, True])
def test_adafactor_follows_transformers(capturable):
    reference_module = pytest.importorskip("transformers.optimization")
    ours, theirs = parameters(), parameters()
    optimizer = Adafactor([{"params": ours, "weight_decay": 0.01}], lr=1e-2, capturable=capturable)
    reference = reference_module.Adafactor([{"params": theirs, "weight_decay": 0.01}], lr=1e-2, relative_step=False,
                                           scale_parameter=False, warmup_init=False)
    for step in range(8):
        set_learning_rate(optimizer, 1e-2 / (step + 1))
        set_learning_rate(reference, 1e-2 / (step + 1))
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step()
        reference.step()
        for one, two in zip(ours, theirs):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


class Small(nn.Module):
    """Names as in the models: a tied weight, layer norms with `gamma` or `weight`, a gated CNN, a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.output = nn.Linear(5, 3)
        self.output.weight = self.linear.weight
        self.layer_norm = nn.Module()
        self.layer_norm.gamma = nn.Parameter(torch.ones(3))
        self.layer_norm.beta = nn.Parameter(torch.zeros(3))
        self.layer_norm.weight = nn.Parameter(torch.ones(3))
        self.conv_b = nn.Parameter(torch.zeros(3))
        self.gate_b = nn.Parameter(torch.zeros(3))
        self.rnn = nn.GRU(3, 2)
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)


def test_groups_own_every_parameter_once():
    model = Small()
    decayed, undecayed = parameter_groups(model)
    assert decayed["weight_decay"] == 0.01 and undecayed["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)] for parameter in decayed["params"]} == {
        "linear.weight", "conv_b", "gate_b", "rnn.weight_ih_l0", "rnn.weight_hh_l0"}
    assert {names[id(parameter)] for parameter in undecayed["params"]} == {
        "linear.bias", "output.bias", "layer_norm.gamma", "layer_norm.beta", "layer_norm.weight", "rnn.bias_ih_l0",
        "rnn.bias_hh_l0"}
    with pytest.raises(AssertionError, match=r"no group owns: .*linear.weight"):
        check_ownership(model, [undecayed])
    with pytest.raises(AssertionError, match=r"own twice: .*linear.weight"):
        check_ownership(model, [decayed, undecayed, decayed])
    with pytest.raises(AssertionError, match="not trainable"):
        check_ownership(model, [decayed, undecayed, {"params": [model.frozen]}])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [AdamW, StableAdamW])
def test_it_is_the_same_on_cuda_and_in_a_graph(kind):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    host = parameters()
    device = [nn.Parameter(p.detach().cuda()) for p in host]
    optimizers = [kind([{"params": params, "weight_decay": 0.01}], lr=1e-2, capturable=params is device)
                  for params in (host, device)]
    give_gradients(host, 0)
    for one, two in zip(host, device):
        two.grad = one.grad.cuda()
    for _ in range(3):
        for optimizer in optimizers:
            optimizer.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizers[1].step()
    for step, rate in ((3, 1e-3), (4, 1e-4)):
        give_gradients(host, step)
        for one, two in zip(host, device):
            two.grad.copy_(one.grad)
        for optimizer in optimizers:
            set_learning_rate(optimizer, rate)
        optimizers[0].step()
        graph.replay()
    for one, two in zip(host, device):
        torch.testing.assert_close(one, two.cpu(), rtol=1e-5, atol=1e-6)


def test_no_optimizer_brings_torchs_compiler_along(monkeypatch):
    """Some of torch's methods have a decorator that imports `torch._dynamo`, which takes seconds; none is called."""
    def refusing(method):
        @functools.wraps(inspect.unwrap(method))
        def refuse(*_, **__):
            raise AssertionError("torch would import its compiler")

        return refuse

    decorated = {name: method for name, method in vars(torch.optim.Optimizer).items()
                 if inspect.isfunction(method) and hasattr(method, "__wrapped__")}
    assert {"add_param_group", "zero_grad", "state_dict", "load_state_dict"} <= decorated.keys()
    for name, method in decorated.items():
        monkeypatch.setattr(torch.optim.Optimizer, name, refusing(method))
    for kind in OPTIMIZERS.values():
        parameter = torch.nn.Parameter(torch.ones(3, 5))
        optimizer = kind([parameter], lr=0.1)
        parameter.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        assert parameter.grad is None
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
        assert len(optimizer.param_groups) == 2 and optimizer.param_groups[1]["lr"] == 0.1


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 20), (2, 20, 4)])
def test_singular_values_become_about_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    found = orthogonal(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.3 and values.max() < 1.3 and values.mean() > 0.75
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    nearest = left @ right
    assert float(torch.nn.functional.cosine_similarity(found.flatten(), nearest.flatten(), dim=0)) > 0.95


def test_muon_updates_as_torchs():
    """The same matrices as torch's Muon with Moonshot's factor, but for its bfloat16."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 48).view(6, 8)) for _ in range(2))
    mine = Muon([{"params": [ours], "weight_decay": 0.1, "muon": True}], lr=0.02)
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        ours.grad = torch.randn(6, 8)
        theirs.grad = ours.grad.clone()
        mine.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=2e-3)


def test_muon_leaves_an_update_out_and_divides_by_the_scale():
    weights = [torch.nn.Parameter(torch.eye(4)) for _ in range(2)]
    plain, scaled = (Muon([{"params": [weight], "weight_decay": 0.0, "muon": True}], lr=0.1) for weight in weights)
    gradient = torch.randn(4, 4)
    weights[0].grad, weights[1].grad = gradient.clone(), gradient * 1024
    plain.step()
    scaled.grad_scale, scaled.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
    scaled.step()
    torch.testing.assert_close(*weights)
    weights[1].grad = torch.full((4, 4), torch.inf)
    before, scaled.found_inf = weights[1].clone(), torch.tensor(1.0)
    scaled.step()
    assert torch.equal(weights[1], before)
    assert scaled.state[weights[1]]["momentum_buffer"].isfinite().all()


def test_muon_takes_the_matrices_between_hidden_states():
    model = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(5, 4), "encoder": torch.nn.Linear(4, 4),
                                 "target": torch.nn.Linear(4, 5)})
    group = parameter_groups(model, matrices=True)[-1]
    assert group["muon"] and [id(parameter) for parameter in group["params"]] == [id(model["encoder"].weight)]


def test_weight_decay_and_the_second_moment_s_decay_rate_are_settings():
    """The first update of AdamW is learning_rate * sqrt(1 - beta2) and what weight decay takes, for any gradient."""
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(4, 4)})
    torch.nn.init.ones_(model["encoder"].weight)
    optimizer = build_optimizer(OptimConfig(learning_rate=0.1, weight_decay=0.5, adam_beta2=0.75), model)
    model["encoder"](torch.ones(1, 4)).sum().backward()
    optimizer.step()
    # m = 0.1, v = 0.25: the moment part is 0.1 * 0.1 / 0.5
    torch.testing.assert_close(model["encoder"].weight, torch.full((4, 4), 1.0 - 0.02 - 0.1 * 0.5 * 0.98))


def test_settings_of_earlier_versions_have_the_hash_of_earlier_versions():
    assert optim_identity(OptimConfig()) == {"learning_rate": 2e-5, "warmup": 0.1, "lr_decay": 0.5,
                                             "optimizer": "adamw", "scheduler": "linear"}
    assert optim_identity(OptimConfig(weight_decay=0.0))["weight_decay"] == 0.0


def test_muon_gives_with_workers_what_one_thread_gives():
    def trained(workers):
        torch.manual_seed(5)
        parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in [(8, 8)] * 3 + [(8, 24), (24, 8)]]
        optimizer = Muon([{"params": parameters, "muon": True}], lr=0.1)
        optimizer.workers = workers
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        return parameters

    for ours, theirs in zip(trained(Workers(Split(2, 1), 2)), trained(None)):
        torch.testing.assert_close(ours, theirs)
        assert ours.is_leaf and ours.grad_fn is None
