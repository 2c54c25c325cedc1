"""CPU threads: how many there are, how they wait, and workers that compute beside one another.

torch divides each operation among OpenMP threads, which meet at a barrier at its end. Where another process needs one
of the cores, one of these threads is descheduled and all others wait for it, some thousand times in an update. Workers
are Python threads with an OpenMP thread (or a few) each: torch releases Python's lock in its operations, each worker
computes a part of the batch from beginning to end, and they meet once an update.

torch is imported when it is needed: `set_waiting_policy` must come before it.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

Result = TypeVar("Result")

POLICY_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPIN_COUNT = 10_000
"""How often a thread of GNU's OpenMP looks whether there is work before it sleeps, about 10 us. By default it looks for
some ms, and with that a run beside another busy process comes to a standstill."""
COUNT_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
MOST_PARTS = 4
"""Each part makes a gradient of the whole embedding table, and all of them are added."""

LEAST_WORK = 2e9
"""Operations of a batch, forward and backward, below which it stays whole: Python's own time dominates, and only one
thread runs Python at a time."""


def set_waiting_policy() -> None:
    """Let OpenMP threads without work sleep soon; call before torch is imported. The user's own variables win."""
    if not any(name in os.environ for name in POLICY_VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


def usable_cores() -> int:
    """How many threads may compute: what torch's OpenMP takes by default, which is OMP_NUM_THREADS or the cores that
    this process may run on, but where the user has set no variable, no more than the quota of its control group."""
    import torch

    default = torch.get_num_threads()
    return default if any(name in os.environ for name in COUNT_VARIABLES) else min(default, quota_of_group())


def quota_of_group(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int:
    """The cores that Linux' control groups (version 2, or the older version 1) grant this process, rounded down; at
    least 1, and a huge number where there is no limit.

        cpu.max of a container started with --cpus 2.5:   "250000 100000"  ->  2
    """
    try:
        cores = [int(quota) / int(period) for quota, period in _limits(root, groups) if quota not in ("max", "-1")]
    except (OSError, ValueError):
        return 1 << 30
    return max(1, math.floor(min(cores, default=1 << 30)))


def _limits(root: Path, groups: Path) -> list[list[str]]:
    """[quota, period] in microseconds of this process's group and of those that it is in; "max" or -1 is no limit."""
    files = []
    for line in groups.read_text().splitlines():
        if line.startswith("0::"):
            own = PurePosixPath(line[3:].strip("/"))
            files += [[root / group / "cpu.max"] for group in (own, *own.parents)]
    files.append([root / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")])
    return [" ".join(path.read_text() for path in paths).split() for paths in files
            if all(path.exists() for path in paths)]


@dataclass(frozen=True)
class Split:
    """How the threads divide a batch; another split gives another rounding and other draws of dropout."""

    parts: int
    """Each is computed from beginning to end by one worker; 1 is the whole batch."""
    openmp: int
    """OpenMP threads in each part."""

    def values(self) -> dict[str, int]:
        """As a training state holds it."""
        return asdict(self)

    def __str__(self) -> str:
        threads = self.parts * self.openmp
        return f"{threads} thread{'s' if threads > 1 else ''}"


def split_of(threads: int, rows: int) -> Split:
    """The rule: a part for each thread, but at most 4 parts, and no more than rows; each gets an equal number of OpenMP
    threads, rounded down.

        threads 1 -> 1 x 1,  2 -> 2 x 1,  4 -> 4 x 1,  7 -> 4 x 1,  8 -> 4 x 2,  64 -> 4 x 16;  8 for 2 rows: 2 x 4

    Args:
        threads: how many compute.
        rows: of a batch.
    """
    parts = max(1, min(threads, MOST_PARTS, rows))
    return Split(parts, max(1, threads // parts))


@contextlib.contextmanager
def openmp_threads(count: int) -> Iterator[None]:
    """A context in which torch divides the operations of this thread among so many OpenMP threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pays(parameters: int, tokens: int) -> bool:
    """Whether a batch of a model is so much work that parts of it are faster, by the usual estimate of 6 operations a
    parameter and token."""
    return 6.0 * parameters * tokens >= LEAST_WORK


class Workers:
    """Python threads that compute the parts of a batch, with `split.openmp` OpenMP threads each.

    Args:
        split: the parts.
        threads: no more parts run at the same moment than these threads allow, which changes no result.
    """

    def __init__(self, split: Split, threads: int) -> None:
        import torch

        self.split = split
        self._pool = ThreadPoolExecutor(max(1, min(split.parts, threads // split.openmp)), "worker",
                                        partial(torch.set_num_threads, split.openmp))

    def run(self, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        """The jobs' results, in their order; returns when all have ended.

        Raises:
            whatever the first job that failed raised.
        """
        futures: list[Future[Any]] = [self._pool.submit(job) for job in jobs]
        try:
            wait(futures)
        except BaseException:  # Ctrl-C: jobs that have not begun never begin
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]


def run_beside(jobs: Iterable[Callable[[], Result]], threads: int) -> Iterator[Result]:
    """The results of jobs that need nothing of one another, in their order: several at a time, each with its part of
    the threads as `split_of` divides them. No more jobs than run are taken at once."""
    if threads == 1:
        yield from (job() for job in jobs)
        return
    import torch

    split, before = split_of(threads, MOST_PARTS), torch.get_num_threads()
    workers, left = Workers(split, threads), iter(jobs)
    try:
        while taken := list(itertools.islice(left, split.parts)):
            yield from workers.run(taken)
    finally:
        torch.set_num_threads(before)  # MKL has one number for all threads, which the workers have set
