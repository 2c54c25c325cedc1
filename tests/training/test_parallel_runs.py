"""Ranks, nodes and micro-batches change nothing but speed; a rank that dies takes the others with it."""

import os
import re
import signal
import socket
from pathlib import Path

import pytest
import torch

from tests.training.conftest import assert_close_weights, distance
from uer.config import ParallelConfig
from uer.errors import UserError
from uer.runtime import launch, parallel

SAME = {"dropout": 0.0, "total_steps": 4, "save_checkpoint_steps": 4, "report_steps": 2, "dev_fraction": 0.2,
        "eval_steps": 2}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def reference(shared_playground):
    """The playground with the run of one rank that all others have to equal."""
    shared_playground.run("reference", **SAME, batch_size=8)
    return shared_playground


@pytest.fixture
def name(reference) -> str:
    """A name that no run has had yet."""
    return f"split{reference.runs}"


@pytest.fixture(scope="module", autouse=True)
def waiting(shared_playground):
    """Runs that wait for a rank until --collective_timeout is over; meanwhile the other tests go on."""
    flags = {"total_steps": 100000, "report_steps": 5}
    absent = {"collective_timeout": 2, "master_ip": f"tcp://localhost:{free_port()}", "gpu_ranks": (0, 1)}
    no_master = {**absent, "master_ip": f"tcp://localhost:{free_port()}", "gpu_ranks": (1,)}
    stopped = shared_playground.start("stopped", **flags, world_size=2, gpu_ranks=(0, 1), collective_timeout=1)
    if Path("/proc/self/stat").exists():
        stopped.wait_for(lambda: "tokens/s" in stopped.output)
        rank, _ = sorted(pid for pid in processes_of(stopped.pid) if pid != stopped.pid)
        os.kill(rank, signal.SIGSTOP)
    return {"stopped rank": stopped, "absent rank": shared_playground.start("absent", **flags, world_size=3, **absent),
            "absent master": shared_playground.start("no_master", **flags, world_size=2, **no_master)}


def assert_same_run(playground, name):
    """The same losses, the same evaluations and the same weights as those of one rank."""
    assert playground.losses(name) == pytest.approx(playground.losses("reference"), abs=2e-5)
    evaluations = [playground.figures(run, "eval") for run in (name, "reference")]
    assert [[line["step"] for line in lines] for lines in evaluations] == [[2, 4], [2, 4]]
    for key in ("loss", "acc", "perplexity"):
        ours, theirs = ([line[key] for line in lines] for lines in evaluations)
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert_close_weights(playground.weights(f"{name}-4"), playground.weights("reference-4"))


@pytest.mark.parametrize("flags", [
    {"batch_size": 4, "accumulation_steps": 2},
    {"batch_size": 2, "world_size": 2, "gpu_ranks": (0, 1), "accumulation_steps": 2},
    {"batch_size": 2, "world_size": 4, "gpu_ranks": (0, 1, 2, 3)},
    {"batch_size": 2, "world_size": 2, "gpu_ranks": (0, 1), "sharding": "fsdp", "accumulation_steps": 2,
     "activation_checkpointing": True}], ids=lambda flags: " ".join(map(str, flags.values())))
def test_same_curve(reference, name, flags):
    reference.run(name, **SAME, **flags)
    assert_same_run(reference, name)


def test_stableadamw_measures_whole_gradients_of_parameters_in_parts(reference):
    """Each rank has half of every parameter; that their gradients are measured together makes it the run of one."""
    flags = {**SAME, "optimizer": "stableadamw", "dev_fraction": 0.0, "total_steps": 4, "save_checkpoint_steps": 4}
    reference.run("stable", **flags, batch_size=8)
    reference.run("stable_parts", **flags, batch_size=4, world_size=2, gpu_ranks=(0, 1), sharding="fsdp")
    assert reference.losses("stable_parts") == pytest.approx(reference.losses("stable"), abs=2e-5)
    assert_close_weights(reference.weights("stable_parts-4"), reference.weights("stable-4"))


@pytest.mark.parametrize("flags", [
    {}, {"sharding": "fsdp", "activation_checkpointing": True, "accumulation_steps": 2},
    {"gradient_compression": "bf16"}, {"weights_dtype": "bf16"}], ids=lambda flags: " ".join(map(str, flags.values())))
def test_bf16_between_ranks_trains_as_the_same_computation_in_one(reference, name, flags):
    """Weights gathered in bf16 give the products of autocast, which rounds the same weights; norms and gradients are
    rounded in addition. The runs differ as one of bf16 differs from one of fp32."""
    split = {"batch_size": 4 // flags.get("accumulation_steps", 1), "world_size": 2, "gpu_ranks": (0, 1)}
    same = {**SAME, "precision": "bf16"}
    if not (reference.folder / "bf16.jsonl").exists():
        reference.run("bf16", **same, batch_size=8)
    reference.run(name, **same, **split, **flags)
    assert reference.losses(name) == pytest.approx(reference.losses("bf16"), abs=2e-3)
    ours, bf16, fp32 = (reference.weights(f"{run}-4") for run in (name, "bf16", "reference"))
    assert {value.dtype for value in ours.values()} == {torch.float32}
    assert 0 < distance(ours, bf16) < 2 * distance(bf16, fp32)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dropout_is_the_same_for_ranks_and_micro_batches(playground, precision):
    """The same products of the same rows: in bf16 too, nothing is left to rounding but sums in float32."""
    flags = {"total_steps": 6, "report_steps": 2, "dropout": 0.3, "batch_size": 4, "precision": precision}
    playground.run("ranks", **flags, world_size=2, gpu_ranks=(0, 1))
    playground.run("micro", **flags, accumulation_steps=2)
    assert playground.losses("ranks") == pytest.approx(playground.losses("micro"), abs=2e-5)


@pytest.mark.parametrize("kind", ["torchrun", "slurm"])
def test_two_nodes_by_environment(reference, name, kind):
    """What torchrun and srun tell their processes. `test_pretrain_family.py` has torchrun itself start two nodes."""
    port = str(free_port())
    jobs = []
    for rank in range(2):
        env = ({"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost",
                "MASTER_PORT": port} if kind == "torchrun" else
               {"SLURM_PROCID": str(rank), "SLURM_NTASKS": "2", "SLURM_LOCALID": "0",
                "SLURM_JOB_NODELIST": "localhost,elsewhere", "MASTER_PORT": port})
        jobs.append(reference.start(name, env, **SAME, batch_size=4))
    assert [job.wait() for job in jobs] == [0, 0], jobs[0].output + jobs[1].output
    assert_same_run(reference, name)
    assert "tokens/s" in jobs[0].output and jobs[1].output == ""


def processes_of(group: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_rank_takes_the_others_down(playground):
    job = playground.start("m", total_steps=100000, report_steps=5, world_size=2, gpu_ranks=(0, 1))
    job.wait_for(lambda: "tokens/s" in job.output)
    ranks = [pid for pid in processes_of(job.pid) if pid != job.pid]
    assert len(ranks) == 2
    os.kill(max(ranks), signal.SIGKILL)
    assert job.wait() == 1
    assert re.findall(r"error: rank \d was killed by SIGKILL", job.output)
    assert job.output.count("error:") == 1 and "Traceback" not in job.output
    assert processes_of(job.pid) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_ranks_end_with_their_parent_and_the_next_run_waits_for_them(playground):
    flags = {"total_steps": 100000, "report_steps": 5, "save_checkpoint_steps": 5, "world_size": 2, "gpu_ranks": (0, 1)}
    job = playground.start("m", **flags)
    job.wait_for(lambda: "m-5" in job.output)
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait() == 137, job.output
    again = playground.start("m", **flags)
    again.wait_for(lambda: "tokens/s" in again.output)
    assert processes_of(job.pid) == []
    assert "resumed after step" in again.output
    os.kill(again.pid, signal.SIGTERM)
    assert again.wait() == 143


def test_an_error_of_all_ranks_is_shown_once(playground):
    line = playground.fail("m", world_size=2, gpu_ranks=(0, 1), max_seq_length=8)
    assert "max_seq_length is 8" in line


@pytest.mark.parametrize("run, words", [("absent rank", "no response from rank 2 of 3 within 2 s"),
                                        ("absent master", "could not reach rank 0")])
def test_an_absent_rank_is_named(waiting, run, words):
    assert words in waiting[run].refusal()
    assert run == "absent master" or "[c10d]" not in waiting[run].output  # torch's warnings


@pytest.mark.parametrize("nodes, first", [
    ("node7", "node7"), ("gpu[003-010,12],login1", "gpu003"), ("a1,b2", "a1"), ("a1,b[2-3]", "a1"),
    ("rack1-gpu[7,9]", "rack1-gpu7")])
def test_first_host_of_a_slurm_list(nodes, first):
    assert launch.first_host(nodes) == first


def test_local_ranks():
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "n[1-4]",
             "SLURM_JOB_ID": "1234567"}
    rank, = launch.local_ranks(ParallelConfig(), slurm)
    assert (rank.rank, rank.world_size, rank.local_rank, rank.host, rank.port) == (3, 8, 1, "n1", 24567)
    assert launch.local_ranks(ParallelConfig(), {**slurm, "MASTER_ADDR": "here", "MASTER_PORT": "77"})[0].port == 77
    assert launch.local_ranks(ParallelConfig(), {}) == [launch.RankInfo()]
    spawned = launch.local_ranks(ParallelConfig(world_size=4, gpu_ranks=(2, 3), master_ip="tcp://far:99"), {})
    assert [(rank.rank, rank.local_rank, rank.host, rank.port) for rank in spawned] == [
        (2, 0, "far", 99), (3, 1, "far", 99)]
    with pytest.raises(UserError, match="--gpu_ranks 0 1"):
        launch.local_ranks(ParallelConfig(world_size=2), {})
    with pytest.raises(UserError, match="tcp://HOST:PORT"):
        launch.local_ranks(ParallelConfig(world_size=2, gpu_ranks=(0, 1), master_ip="nowhere"), {})
    with pytest.raises(UserError, match="contradicts torchrun"):
        launch.local_ranks(ParallelConfig(world_size=2, gpu_ranks=(0, 1)), {"RANK": "0", "WORLD_SIZE": "4"})


def test_a_rank_takes_the_gpu_that_slurm_shows_it(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3", "MASTER_ADDR": "here"}
    rank, = launch.local_ranks(ParallelConfig(), slurm)
    assert parallel._device(rank, ParallelConfig()) == torch.device("cuda", 0) and chosen == [0]
    with pytest.raises(UserError, match="needs GPU 3, but this machine has 1"):
        parallel._device(launch.RankInfo(3, 4, 3), ParallelConfig())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert parallel._device(rank, ParallelConfig()) == torch.device("cuda", 3)


@pytest.mark.parametrize("master_ip", ["localhost", "tcp://:12345", "tcp://localhost:port", "tcp://localhost:99999"])
def test_an_address_that_cannot_be(master_ip):
    with pytest.raises(UserError, match="tcp://HOST:PORT is needed"):
        launch.local_ranks(ParallelConfig(world_size=2, gpu_ranks=(0,), master_ip=master_ip), {})


def test_no_room_for_a_tensor_is_the_users_to_mend():
    with pytest.raises(UserError, match=r"out of memory: .*can't allocate memory.*; a smaller --batch_size"):
        launch.run([launch.RankInfo()], lambda rank: torch.empty(1 << 60))


def _fail_at_length(rank_info):
    if rank_info.rank == 1:
        raise UserError("a key that does not fit; " * 10_000)
    return 0


def test_an_error_longer_than_a_pipe_holds_reaches_the_command():
    ranks = [launch.RankInfo(rank, 2, rank, 2, spawned=True) for rank in range(2)]
    with pytest.raises(UserError, match=r"^a key that does not fit; "):
        launch.run(ranks, _fail_at_length)


def _lose_its_reader(rank_info):
    if rank_info.rank == 0:
        raise BrokenPipeError(32, "Broken pipe", "standard output")
    raise RuntimeError("gloo: connection closed by peer")


def test_ranks_whose_output_nobody_reads_end_without_a_word(capfd):
    """pretrain.py --world_size 2 ... | head"""
    ranks = [launch.RankInfo(rank, 2, rank, 2, spawned=True) for rank in range(2)]
    assert launch.run(ranks, _lose_its_reader) == 141 and capfd.readouterr().err == ""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_stopped_rank_is_named(waiting):
    """Rank 0 holds the store that the ranks' pulses are in, and so is the harder case."""
    job = waiting["stopped rank"]
    assert job.wait() == 2
    assert re.findall(r"error: .*--collective_timeout.*rank 0 does not run", job.output)
    assert job.output.count("error:") == 1 and "Traceback" not in job.output
    assert processes_of(job.pid) == []
