"""Training on a GPU: every way to run gives the same losses. `scripts/check_gpu.py` shares these checks."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import _checks

from uer.training.cuda_graph import GraphedUpdate
from uer.training.update import Update

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ON_GPU = [way for way in _checks.WAYS if way != "packed"]  # "packed" of fp32 is how a CPU runs
STILL = ("--dropout", "0")
TWO_MICRO_BATCHES = ("--batch_size", "8", "--accumulation_steps", "2")


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    """16 rows an update, 20 updates."""
    return _checks.Curves(tmp_path_factory.mktemp("curves"), ["--device", "cuda"], 16, 20)


@pytest.fixture(scope="module")
def reference(curves):
    """fp32, every kernel launched by itself, padding computed."""
    return curves.of("--precision", "fp32", *STILL)


@pytest.mark.parametrize("way", ON_GPU)
def test_every_way_to_run_gives_the_same_losses(curves, reference, way):
    curve = curves.of(*_checks.WAYS[way], *STILL)
    worst = _checks.worst_difference(reference, curve, skipping=way == "fp16")
    assert worst < _checks.tolerance(way) and curve[-1] < curve[0]


def test_micro_batches_give_the_losses_of_one_batch(curves, reference):
    for flags in ((), ("--cuda_graph", "on")):
        curve = curves.of("--precision", "fp32", *TWO_MICRO_BATCHES, *STILL, *flags)
        assert _checks.worst_difference(reference, curve) < 0.005


@pytest.mark.parametrize("flags", [(), TWO_MICRO_BATCHES], ids=["one micro-batch", "two"])
def test_a_graph_draws_the_same_dropout(curves, flags):
    eager, graph = (curves.of("--precision", "bf16", "--cuda_graph", chosen, *flags) for chosen in ("off", "on"))
    assert _checks.worst_difference(eager, graph) < 0.01


def test_which_update_runs_follows_the_flags(curves):
    assert type(curves.trainer("--cuda_graph", "on").update) is GraphedUpdate
    assert type(curves.trainer().update) is Update


@pytest.mark.parametrize("flags", [(), ("--cuda_graph", "on", "--unpad", "auto")], ids=["one by one", "graph"])
def test_the_host_never_waits(curves, flags):
    trainer = curves.trainer("--precision", "bf16", *flags)
    _checks.losses(trainer, 30)
    assert _checks.hidden_waits(trainer, 24) == []


def test_a_killed_run_goes_on(curves, tmp_path):
    whole, killed, output = _checks.kill_and_resume(tmp_path, curves.flags, 80, 300.0)
    assert abs(whole - killed) < 0.02 and "resumed after step" in output


def test_attention_drops_what_it_should():
    for mask in (None, torch.zeros(16, 1, 1, 128, device="cuda", dtype=torch.bfloat16)):
        assert abs(_checks.dropped_fraction("cuda", torch.bfloat16, mask, (16, 12, 128, 64)) - 0.1) < 0.01
