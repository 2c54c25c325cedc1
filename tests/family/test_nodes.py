"""Torchrun's arguments, and what node 0 tells the other machines."""

import signal
import sys
from fractions import Fraction

import pytest

from uer.config import ModelConfig
from uer.errors import UserError
from uer.family.config import FamilyConfig, MachineConfig
from uer.family.costs import Cost
from uer.family.devices import Devices, named_devices, spread
from uer.family.nodes import Launch, parse_torchrun, read_launch, write_launch
from uer.family.recipe import RECIPES
from uer.family.runner import Follower
from uer.family.sizes import Size
from uer.family.work import Workshop

SIZE = Size("L-8_H-512", "models/bert/L-8_H-512_config.json", ModelConfig(layers_num=8))
COST = Cost(SIZE, 1, (1.0,), 1, 0.3, 1.0, Fraction(1))
TWO = "--nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint first:29500"


@pytest.fixture(autouse=True)
def default_signals():
    yield
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_arguments_are_read_in_torchruns_spellings():
    found = parse_torchrun(TWO + " --node_rank 1", gpus=8, env={})
    assert (found.nodes, found.processes, found.node) == (2, 8, 1)
    assert found.command("x")[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert found.command("x")[-4:] == ["--node_rank", "1", "--rdzv_id", "x"]
    assert found.shown() == "torchrun --nnodes 2 --nproc_per_node 8"
    dashed = parse_torchrun("--nnodes=2 --nproc-per-node=gpu --master-addr=first", gpus=4, env={"SLURM_NODEID": "1"})
    assert (dashed.nodes, dashed.processes, dashed.node) == (2, 4, 1)
    alone = parse_torchrun("--standalone --nproc_per_node 3", gpus=0, env={"SLURM_NODEID": "5"})
    assert (alone.nodes, alone.processes, alone.node) == (1, 3, 0)


@pytest.mark.parametrize("text, message", [
    ("--nnodes 1:4 --rdzv_endpoint a:1", "--nnodes must be a fixed number, not '1:4'"),
    ("--nproc_per_node many", "--nproc_per_node must be a fixed number"),
    ("--nproc_per_node gpu", "must be at least 1"),
    ("--nnodes 2", "2 machines need --rdzv_endpoint HOST:PORT"),
    (TWO + " --node_rank 2", "--node_rank 2 must lie between 0 and 1"),
    ("--nnodes '2", "No closing quotation")])
def test_what_torchrun_could_not_do_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_torchrun(text, gpus=0, env={})
    assert "leave out --gpus_per_model" in MachineConfig(torchrun=TWO, gpus_per_model=2).problems()[0]


def test_the_plan_reckons_with_all_machines():
    torchrun = parse_torchrun(TWO, gpus=8, env={})
    assert spread(named_devices("H100", 8), torchrun).count == 16
    with pytest.raises(UserError, match="--nproc_per_node 8, but this machine has 4 GPUs"):
        spread(named_devices("H100", 4), torchrun)
    machine = Devices("CPU", "cpu", 1, 8e9, 1 << 33)
    assert spread(machine, torchrun) == Devices("1/8 of a CPU", "cpu", 16, 1e9, 1 << 30)


def shop_of(tmp_path, root, node):
    torchrun = parse_torchrun(f"{TWO} --node_rank {node}", gpus=8, env={})
    config = FamilyConfig(corpus_path=("c.txt",), output_dir=str(tmp_path / "out"))
    return Workshop(root, config, MachineConfig(), RECIPES["uer"], "cuda", 16, torchrun=torchrun, launch_id="abc")


def test_pretraining_runs_under_torchrun_and_node_0_says_so(tmp_path, root):
    shop = shop_of(tmp_path, root, 0)
    first, *_, last = shop.model_steps(SIZE)
    assert first.argv[-len(first.flags) - 2:-len(first.flags)] == ["abc-L-8_H-512-stage1", str(root / "pretrain.py")]
    assert first.program == "pretrain.py" and "--world_size" not in first.argv and last.argv[1].endswith(".py")
    assert first.flags[first.flags.index("--batch_size") + 1] == "32"  # 512 rows on 16 GPUs
    shop.folder.mkdir()
    assert read_launch(shop.folder) is None
    first.prepare()
    assert read_launch(shop.folder) == Launch("abc-L-8_H-512-stage1", "L-8_H-512-stage1", first.flags)
    other = shop_of(tmp_path, root, 1).model_steps(SIZE)[0]
    assert other.flags == first.flags and other.log.name == "L-8_H-512.node1.log"


def test_a_node_with_another_command_does_not_join(tmp_path, root):
    shop = shop_of(tmp_path, root, 1)
    shop.folder.mkdir()
    write_launch(shop.folder, Launch("x-L-8_H-512-stage1", "L-8_H-512-stage1", ("--total_steps", "7")))
    with pytest.raises(UserError, match="node 0 trains L-8_H-512-stage1 with other flags than this command would"):
        Follower(shop, 0, print).run([COST], 16)


def test_the_end_of_node_0_is_the_end_of_the_others(tmp_path, root):
    shop, said = shop_of(tmp_path, root, 1), []
    shop.folder.mkdir()
    write_launch(shop.folder, Launch("old-end", reason="of an earlier start"))

    def say(line):  # node 0 fails after this node has begun to wait
        said.append(line)
        write_launch(shop.folder, Launch("new-end", reason="a full disk"))

    with pytest.raises(UserError, match="node 0 has ended: a full disk"):
        Follower(shop, 0, say).run([COST], 16)
    assert said == ["node 1: waiting for node 0"]
    shop.model_folder(SIZE).mkdir()
    Follower(shop, 0, print).run([COST], 16)  # everything is there
