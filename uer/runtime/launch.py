"""Decides which ranks a command runs on this machine, starts them and watches them.

The `RankInfo` of a process (its rank and the address of rank 0) comes from one of four sources:
- no flag and no such variable: one process;
- `--world_size 4 --gpu_ranks 0 1 2 3`: this command starts the ranks named, one process each;
- `torchrun --nproc_per_node 4 pretrain.py ...`: it sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT;
- `srun python3 pretrain.py ...`: Slurm sets SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID; the address of rank 0 is
  MASTER_ADDR and MASTER_PORT where given, else the first machine of SLURM_JOB_NODELIST and a port from SLURM_JOB_ID.

The command watches the ranks it starts: when one fails, its error is shown once and the others end within seconds.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from uer.config import ParallelConfig
from uer.errors import UserError
from uer.runtime.failures import Failure, SharedError, as_user_errors, describe
from uer.runtime.processes import death_note, die_with_parent, on_stop_signal, start_method
from uer.terminal import output_error

GRACE_SECONDS = 2.0
SLURM_FIRST_PORT = 20000
LARGEST_PORT = 65535
CLEAN_STATUSES = (0, 128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class RankInfo:
    """One process of a run.

    Attributes:
        rank: its number among the `world_size` processes.
        local_rank: its number among the `local_size` processes of its machine (1 where that is not known).
        host, port: where rank 0 listens.
        store_exists: torchrun's agent already listens there.
        may_see_one_gpu: the scheduler may show each process no GPU but its own.
        spawned: a command starts it; otherwise it is the command itself.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    host: str = "localhost"
    port: int = 12345
    store_exists: bool = False
    may_see_one_gpu: bool = False
    spawned: bool = False


def local_ranks(config: ParallelConfig, env: Mapping[str, str] = os.environ) -> list[RankInfo]:
    """The ranks that this command has to run; one that is not `spawned` is the command itself.

    Raises:
        UserError: the flags and the environment contradict one another.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        return [_from_torchrun(config, env)]
    if config.world_size == 1 and _slurm_tasks(env) > 1:
        return [_from_slurm(env)]
    if config.world_size == 1:
        return [RankInfo(local_rank=config.gpu_ranks[0] if config.gpu_ranks else 0)]
    if not config.gpu_ranks:
        raise UserError(f"--world_size {config.world_size} needs --gpu_ranks, the ranks that run on this machine "
                        f"(all of them: --gpu_ranks {' '.join(map(str, range(config.world_size)))})")
    host, port = _rank_0_address(config.master_ip)
    if len(config.gpu_ranks) == config.world_size:  # no other run can have a free port of this machine
        host, port = "localhost", _free_port()
    return [RankInfo(rank, config.world_size, local_rank, len(config.gpu_ranks), host, port, spawned=True)
            for local_rank, rank in enumerate(config.gpu_ranks)]


def _from_torchrun(config: ParallelConfig, env: Mapping[str, str]) -> RankInfo:
    rank_info = RankInfo(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", "0")),
                         int(env.get("LOCAL_WORLD_SIZE", "1")), env.get("MASTER_ADDR", "localhost"),
                         int(env.get("MASTER_PORT", "29500")),
                         store_exists=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True")
    if config.world_size not in (1, rank_info.world_size):
        raise UserError(f"--world_size {config.world_size} contradicts torchrun's WORLD_SIZE {rank_info.world_size}; "
                        "leave the flag out")
    return rank_info


def _slurm_tasks(env: Mapping[str, str]) -> int:
    """How many processes srun started together with this one; 1 where srun did not start it.

    The commands of sbatch's script have a SLURM_PROCID and the job's SLURM_NTASKS too, although they run once; what
    srun starts has the variables of a step. The shell that salloc starts may be a step of one task in such a job.

    Raises:
        UserError: it is a command of sbatch's script, in a job of several tasks.
    """
    tasks = int(env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS", "1"))
    if "SLURM_PROCID" not in env:
        return 1
    if tasks > 1 and "SLURM_JOB_NAME" in env and "SLURM_STEP_ID" not in env:
        raise UserError(f"the job has {tasks} tasks (SLURM_NTASKS), but this process runs alone, because srun did not "
                        "start it: write srun before python3, or ask for one task with the CPUs of all: "
                        f"--ntasks=1 --cpus-per-task={tasks}")
    return tasks


def _from_slurm(env: Mapping[str, str]) -> RankInfo:
    first = env.get("MASTER_ADDR") or first_host(env.get("SLURM_JOB_NODELIST", "localhost"))
    port = env.get("MASTER_PORT") or SLURM_FIRST_PORT + int(env.get("SLURM_JOB_ID", "0")) % 10000
    return RankInfo(int(env["SLURM_PROCID"]), _slurm_tasks(env), int(env.get("SLURM_LOCALID", "0")),
                    int(env.get("SLURM_NTASKS_PER_NODE", "1")), first, int(port), may_see_one_gpu=True)


def first_host(nodes: str) -> str:
    """The first machine of a Slurm node list: `gpu[003-010,12],login1` -> `gpu003`."""
    prefix, bracket, rest = nodes.partition("[")
    if not bracket or "," in prefix:
        return nodes.split(",")[0]
    return prefix + rest.split("]")[0].split(",")[0].split("-")[0]


def _rank_0_address(master_ip: str) -> tuple[str, int]:
    address = master_ip.removeprefix("tcp://")
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) <= LARGEST_PORT:
        raise UserError(f"--master_ip {master_ip}: tcp://HOST:PORT is needed")
    return host, int(port)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def run(rank_infos: list[RankInfo], worker: Callable[..., int], *arguments: Any) -> int:
    """Run `worker(rank_info, *arguments)` in every rank of this machine; returns the exit status.

    Raises:
        UserError: a rank raised it.
    """
    if not rank_infos[0].spawned:
        return _run_here(rank_infos[0], worker, *arguments)
    context = multiprocessing.get_context(start_method(torch.cuda.is_available()))
    sys.stdout.flush()
    sys.stderr.flush()
    ranks = []
    for rank_info in rank_infos:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rank_main, args=(theirs, worker, rank_info, arguments),
                                  name=f"rank {rank_info.rank}")
        process.start()
        theirs.close()
        ranks.append(_Rank(rank_info.rank, process, ours))
    return _watch(ranks)


def _run_here(rank_info: RankInfo, worker: Callable[..., int], *arguments: Any) -> int:
    try:
        with as_user_errors():
            return worker(rank_info, *arguments)
    except SharedError as error:
        if rank_info.rank == 0:
            raise
        return describe(error).status


@dataclass
class _Rank:
    """A process that this one started: its rank, the end of the pipe that its error comes through, and that error."""

    number: int
    process: Any
    pipe: Any
    failure: Failure | None = None


def _rank_main(pipe: Any, worker: Callable[..., int], rank_info: RankInfo, arguments: tuple) -> None:
    """The main function of a spawned rank. It sends its error to the parent process, which prints it once."""
    die_with_parent()
    try:
        status, failure = worker(rank_info, *arguments), None
    except SystemExit as leaving:
        status, failure = int(leaving.code or 0), None
    except KeyboardInterrupt:
        status, failure = 128 + signal.SIGINT, None
    except BaseException as error:
        failure = describe(error)
        status = failure.status
    if failure is not None:
        pipe.send(failure)
    pipe.close()
    output_error()
    sys.stderr.flush()
    os._exit(status)  # at once: a communication library's thread must not keep a finished rank from ending


def _watch(ranks: list[_Rank]) -> int:
    """Wait for every rank; end the others once one has failed. SIGTERM and Ctrl-C are passed on."""
    passed_on: list[int] = []

    def pass_on(number: int) -> None:
        passed_on.append(number)
        for rank in ranks:
            if rank.process.is_alive():
                os.kill(rank.process.pid, number)

    with on_stop_signal(pass_on):
        while any(rank.process.is_alive() for rank in ranks):
            multiprocessing.connection.wait([rank.process.sentinel for rank in ranks if rank.process.is_alive()], 0.5)
            if any(_collect(rank) for rank in ranks):
                _end(ranks)
    if any(-number in [rank.process.exitcode for rank in ranks] for number in passed_on):
        return 128 + passed_on[-1]
    return _verdict(ranks)


def _collect(rank: _Rank) -> bool:
    """Receive a rank's failure or find that it has died; returns whether it has failed.

    A rank that still runs is received from too: it cannot end before a message that is longer than the pipe is read.
    """
    code = rank.process.exitcode  # before the pipe: what a rank that has ended sent is there
    if rank.failure is None:
        with contextlib.suppress(EOFError, OSError):  # it sent nothing, or died while it did
            rank.failure = rank.pipe.recv() if rank.pipe.poll() else None
    if rank.failure is None and code is not None:
        if code < 0:
            rank.failure = Failure(4, 1, f"rank {rank.number} {death_note(code)}")
        elif code not in CLEAN_STATUSES:
            rank.failure = Failure(2, code, f"it {death_note(code)}")
    return rank.failure is not None


def _end(ranks: list[_Rank]) -> None:
    """Give the other ranks `GRACE_SECONDS` to report why they failed, then kill them: they may hang in a collective."""
    until = time.monotonic() + GRACE_SECONDS
    alive = [rank for rank in ranks if rank.process.is_alive()]
    for rank in alive:
        rank.process.join(max(0.0, until - time.monotonic()))
    for rank in alive:
        if rank.process.is_alive():
            rank.failure = rank.failure or Failure(0, 1, f"rank {rank.number} was ended")
            rank.process.kill()
            rank.process.join()
        else:
            _collect(rank)


def _verdict(ranks: list[_Rank]) -> int:
    """The exit status, once all ranks have ended; shows the failure that caused the others."""
    failures = [rank.failure for rank in ranks if _collect(rank)]
    if not failures:
        return max(rank.process.exitcode or 0 for rank in ranks)
    cause = max(failures, key=lambda failure: failure.weight)
    if cause.user:
        raise UserError(cause.message)
    if not cause.message:
        return cause.status
    number = next(rank.number for rank in ranks if rank.failure is cause)
    headline = cause.message if cause.weight == 4 else f"rank {number} failed:\n{cause.message}"
    print(f"error: {headline.rstrip()}", file=sys.stderr)
    return cause.status
