"""SimCSE on two ranks: the loss and the gradients of one rank with the same batch."""

import json
from pathlib import Path

import pytest
import torch

from uer.checkpoint.files import load_weights
from uer.config import ParallelConfig
from uer.finetuning.batches import Batch, shard
from uer.finetuning.command import finetune
from uer.finetuning.tasks.simcse import Simcse
from uer.runtime import launch
from uer.runtime.parallel import World, connect

SIZES = (5, 1)  # pairs of a batch; of one pair, the second rank has none
TWO = ParallelConfig(world_size=2, gpu_ranks=(0, 1), device="cpu")


def vectors(pairs: int) -> torch.Tensor:
    """(2 * pairs, 4)"""
    return torch.randn(2 * pairs, 4, generator=torch.Generator().manual_seed(pairs))


def loss_and_gradient(world: World, pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's part of the loss, and the gradients (2 * pairs, 4) of its vectors, 0 elsewhere."""
    task, every = Simcse(0.5), vectors(pairs).requires_grad_()
    task.gather = world.gather_rows
    mine = shard(torch.arange(pairs).numpy(), world.rank, world.world_size)
    own = every.view(pairs, 2, 4)[mine].reshape(-1, 4)
    loss = task.loss(own, Batch(torch.zeros(0), torch.zeros(0)))
    loss.backward()
    return loss.detach(), every.grad


def run_rank(rank_info: launch.RankInfo, folder: Path) -> int:
    world = connect(rank_info, TWO)
    torch.save([loss_and_gradient(world, pairs) for pairs in SIZES], folder / f"{world.rank}.pt")
    world.close()
    return 0


def test_loss_and_gradients_are_those_of_one_rank(tmp_path):
    assert launch.run(launch.local_ranks(TWO), run_rank, tmp_path) == 0
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for number, pairs in enumerate(SIZES):
        loss, gradient = loss_and_gradient(connect(launch.RankInfo(), ParallelConfig(device="cpu")), pairs)
        torch.testing.assert_close(ranks[0][number][0] + ranks[1][number][0], loss)
        torch.testing.assert_close(ranks[0][number][1] + ranks[1][number][1], gradient)
        assert pairs == 1 or gradient.abs().max() > 0.01


def test_the_command_on_two_ranks(tiny):
    """17 examples in batches of 8: of the last batch, the second rank has none."""
    marks = "甲乙丁戊己庚辛壬癸子丑寅卯辰巳午未"
    rows = "".join(f"{a}{b}丙\t{b}{a}\n" for a, b in zip(marks, marks[1:] + marks[0]))
    path = tiny.write("pairs.tsv", "text_a\ttext_b\n" + rows)
    dev = tiny.write("dev2.tsv", "label\ttext_a\ttext_b\n1\t甲乙\t乙甲\n0\t甲乙\t未午\n0.5\t甲乙\t甲戊\n")
    for name, ranks in (("one", {}), ("two", {"world_size": 2, "gpu_ranks": (0, 1)})):
        finetune("test", Simcse, tiny.flags(train_path=path, dev_path=dev, output_model_path=tiny.path(f"{name}.bin"),
                                            metrics_path=tiny.path(f"{name}.jsonl"), epochs_num=1, **ranks))
    one, two = (json.loads(Path(tiny.path(f"{name}.jsonl")).read_text().splitlines()[0]) for name in ("one", "two"))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    for name, value in load_weights(tiny.path("one.bin")).items():
        torch.testing.assert_close(load_weights(tiny.path("two.bin"))[name], value, rtol=1e-3, atol=2e-4)
