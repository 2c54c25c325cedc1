"""Pretraining with adapters (--use_lora): the base stays, states are small, runs go on, and ranks and threads agree."""

import pytest
import torch

from uer.checkpoint.files import load_weights, read
from uer.layers.lora import is_adapter, merged

LORA = {"use_lora": True, "total_steps": 6, "save_checkpoint_steps": 3, "report_steps": 1}


@pytest.fixture(scope="module")
def base(shared_playground):
    """The path of a pretrained model, and a playground with the run of one rank."""
    shared_playground.run("base", total_steps=6, save_checkpoint_steps=6)
    path = shared_playground.folder / "base-6"
    shared_playground.run("plain", **LORA, pretrained_model_path=path)
    return path


def test_only_the_adapters_are_saved_and_a_merged_checkpoint_is_their_sum(shared_playground, base):
    job = shared_playground.run("merged", **LORA, pretrained_model_path=base, lora_save="merged")
    assert "4 adapted layers" in job.output
    adapters, whole = shared_playground.weights("plain-6"), shared_playground.weights("merged-6")
    assert len(adapters) == 8 and all(map(is_adapter, adapters))
    assert whole.keys() == load_weights(base).keys()
    torch.testing.assert_close(whole, merged({**load_weights(base), **adapters}, 16.0), rtol=0, atol=1e-6)
    state = read(shared_playground.folder / "merged.state-6")
    assert state["model"].keys() == state["optimizer"].keys() == adapters.keys()
    # A checkpoint that was lost is made again from the base and the state.
    (shared_playground.folder / "merged-6").unlink()
    shared_playground.run("merged", **LORA, pretrained_model_path=base, lora_save="merged")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in shared_playground.weights("merged-6").items())


def test_a_run_goes_on_with_the_same_weights_and_no_other_base(shared_playground, base):
    flags = {**LORA, "pretrained_model_path": base}
    shared_playground.run("first", **{**flags, "total_steps": 6})
    (shared_playground.folder / "first.state-6").unlink()
    job = shared_playground.run("first", **flags)
    assert "resumed after step 3" in job.output
    first, plain = shared_playground.weights("first-6"), shared_playground.weights("plain-6")
    assert all(torch.equal(first[name], tensor) for name, tensor in plain.items())
    assert "lora was" in shared_playground.fail("first", **{**flags, "lora_r": 4})
    assert "lora was" in shared_playground.fail("first", **{**flags, "use_lora": None, "lora_save": None})


def test_ranks_and_threads_give_the_same_adapters(shared_playground, base):
    exact = {**LORA, "pretrained_model_path": base, "dropout": 0.0, "lora_dropout": 0.0}
    shared_playground.run("one", **exact)
    shared_playground.run("ranks", **exact, world_size=2, gpu_ranks=(0, 1), batch_size=2)
    shared_playground.run("threads", **exact, threads=2)
    for other in ("ranks", "threads"):
        torch.testing.assert_close(shared_playground.weights(f"{other}-6"), shared_playground.weights("one-6"),
                                   rtol=1e-3, atol=2e-4)


def test_what_cannot_be_is_said_in_one_line(shared_playground, base):
    for flags, message in (({}, "--use_lora needs --pretrained_model_path"),
                           ({"pretrained_model_path": base, "sharding": "fsdp"}, "needs --sharding none"),
                           ({"pretrained_model_path": shared_playground.folder / "plain-6"}, "not a whole model")):
        assert message in shared_playground.fail("bad", use_lora=True, **flags)
