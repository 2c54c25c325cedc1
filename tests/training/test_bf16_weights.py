"""--weights_dtype bf16: the same training as with float32 weights, the same files, and resumable."""

import pytest
import torch

from tests.training.conftest import distance

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


def test_a_run_goes_on_with_the_same_bits(playground):
    flags = {**FLAGS, "weights_dtype": "bf16"}
    playground.run("whole", **flags)
    job = playground.start("killed", kill={"rename_to": "killed.state-12"}, **flags)
    assert job.wait() == 137, job.output
    assert "resumed after step 6" in playground.run("killed", **flags).output
    assert (playground.folder / "killed-12").read_bytes() == (playground.folder / "whole-12").read_bytes()
    line = playground.fail("killed", **{**flags, "weights_dtype": "fp32", "total_steps": 12})
    assert 'weights_dtype was "bf16" and is now "fp32"' in line


@pytest.mark.parametrize(("flags", "words"), [
    ({"precision": "fp32"}, "--weights_dtype bf16 needs --precision bf16, not fp32"),
    ({"precision": "bf16", "sharding": "fsdp"}, "--weights_dtype bf16 needs --sharding none"),
    ({"precision": "bf16", "optimizer": "adafactor"}, "works with --optimizer adamw")])
def test_what_it_needs(playground, flags, words):
    assert words in playground.fail("m", weights_dtype="bf16", **flags)
