"""Which precision --precision auto is; what autocast and the loss scale do in training is tested with the trainer."""

import pytest
import torch

from uer.runtime import precision as module
from uer.runtime.precision import Choice, Precision, bf16_speedup, cpu_choice, cpu_has_bf16, keep_dropout_exact

CPU = torch.device("cpu")


@pytest.mark.parametrize("ratio, name", [(0.1, "fp32"), (1.29, "fp32"), (1.3, "bf16"), (2.64, "bf16")])
def test_on_a_cpu_bf16_must_be_measurably_faster(ratio, name, monkeypatch):
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: True)
    monkeypatch.setattr(module, "bf16_speedup", lambda: ratio)
    found = cpu_choice()
    assert found.name == name and found.reason == f"bf16 products at {ratio:.1f} x the fp32 rate"
    assert Precision("auto", CPU, lambda: found).describe() == f"{name} ({found.reason})"


def test_without_instructions_for_bf16_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: False)
    monkeypatch.setattr(module, "bf16_speedup", lambda: pytest.fail("measured"))
    assert cpu_choice() == Choice("fp32", "")


@pytest.mark.parametrize("supported", [{"_is_avx512_bf16_supported"}, {"_is_amx_tile_supported"}, set()])
def test_avx512_bf16_or_amx_is_needed(supported, monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in supported, raising=False)
    assert cpu_has_bf16() is bool(supported)


def test_a_torch_without_these_questions_has_no_bf16(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert cpu_has_bf16() is False


def test_the_choice_is_asked_for_on_a_cpu_with_auto_only():
    def choose():
        raise AssertionError

    assert Precision("bf16", CPU, choose).describe() == "bf16"
    assert Precision("fp32", CPU, choose).name == "fp32"
    assert Precision("auto", torch.device("meta"), choose).name == "fp32"
    assert Precision("auto", CPU).name == "fp32"  # fine-tuning, unless a user asks for bf16


def test_the_ratio_is_that_of_the_fastest_products(monkeypatch):
    """A clock by which a float32 product takes 3 ms, a bfloat16 product 2 ms, and the second of each 50 times that."""
    now, products = [0.0], []

    def linear(left, right):
        products.append(left.dtype)
        slow = 50 if 4 <= len(products) <= 5 else 1
        now[0] += slow * (3e-3 if left.dtype == torch.float32 else 2e-3)

    monkeypatch.setattr(module.F, "linear", linear)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    assert bf16_speedup() == pytest.approx(1.5)
    assert products[2:] == [torch.float32, torch.bfloat16] * (len(products[2:]) // 2) and len(products) >= 8


def test_products_are_measured_on_this_machine():
    assert 0 < bf16_speedup(seconds=0.0) < 100


def test_gradients_of_a_weight_that_is_used_twice_are_added_up_in_float32():
    """As those of ALBERT's layers; threads that share a cache of rounded weights would add up others in each run."""
    weight = torch.randn(32, 20, generator=torch.Generator().manual_seed(1), requires_grad=True)
    first, second = torch.randn(2, 7, 20, generator=torch.Generator().manual_seed(2))
    with Precision("bf16", CPU).autocast():
        (torch.nn.functional.linear(first, weight).sum() + torch.nn.functional.linear(second, weight).sum()).backward()
    assert not torch.equal(weight.grad, weight.grad.bfloat16().float())


@pytest.fixture
def cudnn_as_before():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.usefixtures("cudnn_as_before")
@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize(("dropout", "whole"), [(0.0, True), (0.0625, True), (0.125, True), (0.5, True), (0.1, False),
                                                (0.03125, False), (0.3, False)])
def test_cudnn_attention_needs_a_dropout_of_whole_sixteenths(dropout, whole, allowed):
    """What the user has refused stays refused."""
    torch.backends.cuda.enable_cudnn_sdp(allowed)
    others = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
    keep_dropout_exact(dropout)
    assert torch.backends.cuda.cudnn_sdp_enabled() is (allowed and whole)
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()) == others
