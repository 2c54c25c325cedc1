"""Ranks that divide a model among them: the losses, gradients and checkpoints of one rank."""

import pytest

from tests.training.conftest import assert_close_weights

SAME: dict = {"dropout": 0.0, "total_steps": 3, "save_checkpoint_steps": 2, "report_steps": 1}
FOUR = {"world_size": 4, "gpu_ranks": (0, 1, 2, 3)}
TWO_RANKS = {"world_size": 2, "gpu_ranks": (0, 1)}


def assert_same_run(playground, name, first=0):
    ours, theirs = ([(line["loss"], line["grad_norm"]) for line in playground.figures(run)] for run in (name, "one"))
    assert len(ours) == 3 - first
    assert [loss for loss, _ in ours] == pytest.approx([loss for loss, _ in theirs[first:]], abs=1e-5)
    assert [norm for _, norm in ours] == pytest.approx([norm for _, norm in theirs[first:]], rel=1e-4)
    assert_close_weights(playground.weights(f"{name}-3"), playground.weights("one-3"))


def test_a_run_goes_from_mesh_to_mesh(playground):
    """2 x 2 ranks are killed while they write; 1 x 4 ranks go on, and 2 x 1; one rank reads the state of four.

    The model has rotary positions and grouped queries, besides what BERT has, and one layer: each takes a second.
    """
    playground.configure(layers_num=1, heads_num=8, local_kv_heads_num=4, rotary_position_embedding=True)
    playground.run("one", **SAME, batch_size=8)
    square = playground.start("square", **SAME, **FOUR, tensor_parallel_size=2, sharding="fsdp", batch_size=4,
                              kill={"call": "uer.checkpoint.state:StateFolder.complete", "count": 2})
    assert square.wait() != 0
    state = playground.folder / "square.state-2"
    assert playground.losses("square") == pytest.approx(playground.losses("one"), abs=1e-5)
    for number, flags in enumerate([{**FOUR, "tensor_parallel_size": 4, "batch_size": 8},
                                    {**TWO_RANKS, "sharding": "fsdp", "batch_size": 4}]):
        job = playground.run(f"on{number}", **SAME, **flags, resume=state)
        assert "resumed after step 2" in job.output
        assert_same_run(playground, f"on{number}", first=2)
    (playground.folder / "on0-3").unlink()
    assert "written again from" in playground.run("on0", **SAME, batch_size=8).output
    assert_same_run(playground, "on0", first=2)


def test_a_plan_reads_the_datasets_and_writes_nothing(playground):
    before = set(playground.folder.iterdir())
    flags = {**FOUR, "tensor_parallel_size": 2, "dry_run": True, "device_name": "H100"}
    job = playground.run("plan", **SAME, **flags, metrics_path=None,
                         output_model_path=playground.folder / "new folder" / "m.bin")
    assert "on 4 x H100: 2 batches at a time, each on 2; sharding none" in job.output
    assert "micro-batch of 4 x 16 tokens" in job.output and "largest --batch_size in 80 GiB" in job.output
    assert set(playground.folder.iterdir()) - before <= {job.log}
    assert "--device_name needs --dry_run" in playground.fail("plan", device_name="H100")
