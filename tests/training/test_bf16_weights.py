"""Runs in bf16 are resumable. --weights_dtype bf16: the same training as with float32 weights, and the same files."""

import pytest
import torch

from tests.training.conftest import distance

PROGRAM = """
import runpy
from uer.runtime.precision import Choice
from uer.training import run
run.cpu_choice = lambda: Choice({choice!r}, "as measured")
runpy.run_path({script!r}, run_name="__main__")
"""
FLAGS = {"precision": "bf16", "total_steps": 12, "save_checkpoint_steps": 6, "report_steps": 2, "max_grad_norm": 1.0,
         "dev_fraction": 0.1}


def test_the_run_of_float32_weights_with_other_types_between_updates(playground):
    playground.run("wide", **FLAGS)
    playground.run("narrow", **FLAGS, weights_dtype="bf16")
    playground.run("fp32", **{**FLAGS, "precision": "fp32"})
    assert playground.losses("narrow") == pytest.approx(playground.losses("wide"), abs=2e-3)
    wide, narrow, fp32 = (playground.weights(f"{name}-12") for name in ("wide", "narrow", "fp32"))
    assert {value.dtype for value in narrow.values()} == {torch.float32} and narrow.keys() == wide.keys()
    weight = narrow["encoder.transformer.0.feed_forward.linear_1.weight"]
    assert not torch.equal(weight, weight.bfloat16().float()), "the file has the masters"
    assert distance(narrow, wide) < distance(fp32, wide)


@pytest.mark.parametrize("more", [{"weights_dtype": "bf16"}, {"world_size": 2, "gpu_ranks": (0, 1)}], ids=" ".join)
def test_a_run_goes_on_with_the_same_bits(playground, more):
    flags = {**FLAGS, **more}
    playground.run("whole", **flags)
    job = playground.start("killed", kill={"rename_to": "killed.state-12"}, **flags)
    assert job.wait() == (1 if "world_size" in more else 137), job.output
    assert "resumed after step 6" in playground.run("killed", **flags).output
    assert (playground.folder / "killed-12").read_bytes() == (playground.folder / "whole-12").read_bytes()
    if "weights_dtype" in more:
        line = playground.fail("killed", **{**flags, "weights_dtype": "fp32"})
        assert 'weights_dtype was "bf16" and is now "fp32"' in line


def test_what_auto_chose_is_kept(playground, root):
    """A run that began in bf16 goes on so on a CPU whose products it does not make faster."""
    def run(choice):
        log = playground.folder / choice
        flags = {**FLAGS, "precision": "auto"}
        pid = playground.server.ask({"program": PROGRAM.format(choice=choice, script=str(root / "pretrain.py")),
                                     "log": str(log), "argv": playground.arguments("m", **flags)})
        assert playground.server.ask({"wait": pid, "seconds": 240}) == 0, log.read_text()
        return log.read_text()

    assert "bf16 (as measured)" in run("bf16")
    whole = (playground.folder / "m-12").read_bytes()
    (playground.folder / "m.state-12").unlink()
    (playground.folder / "m-12").unlink()
    output = run("fp32")
    assert "resumed after step 6" in output and "as measured" not in output
    assert (playground.folder / "m-12").read_bytes() == whole


@pytest.mark.parametrize(("flags", "words"), [
    ({"precision": "fp32"}, "--weights_dtype bf16 needs --precision bf16, not fp32"),
    ({"precision": "bf16", "sharding": "fsdp"}, "--weights_dtype bf16 needs --sharding none"),
    ({"precision": "bf16", "optimizer": "adafactor"}, "works with --optimizer adamw")])
def test_what_it_needs(playground, flags, words):
    assert words in playground.fail("m", weights_dtype="bf16", **flags)
