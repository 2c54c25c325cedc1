"""Ranks that divide a model among them: the losses, gradients and checkpoints of one rank."""

import pytest
import torch

from uer.checkpoint import files as checkpoint

SAME = {"dropout": 0.0, "total_steps": 6, "save_checkpoint_steps": 6, "report_steps": 1}
FOUR = {"world_size": 4, "gpu_ranks": (0, 1, 2, 3)}


@pytest.mark.parametrize("flags", [
    {"batch_size": 8, "tensor_parallel_size": 2, "world_size": 2, "gpu_ranks": (0, 1)},
    {"batch_size": 4, "tensor_parallel_size": 2, **FOUR},
    {"batch_size": 4, "tensor_parallel_size": 2, "sharding": "fsdp", **FOUR},
])
def test_it(shared_playground, flags):
    play = shared_playground
    if not (play.folder / "reference.jsonl").exists():
        play.run("reference", **SAME, batch_size=8)
    name = f"m{play.runs}"
    play.run(name, **SAME, **flags)
    assert play.losses(name) == pytest.approx(play.losses("reference"), abs=1e-5)
    norms = [[line["grad_norm"] for line in play.figures(run)] for run in (name, "reference")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
