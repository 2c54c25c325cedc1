"""Worker processes that take jobs one by one: bounded, without hangs, without lost errors."""

import errno
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from uer.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
# A worker's side: called once in the worker's process, returns what does a job.
StartTask = Callable[[Callable[[], None]], Callable[[Job], Result]]


class WorkerError(RuntimeError):
    """A bug of ours in a worker; the message holds the job and the worker's traceback."""


class OrphanedError(Exception):
    """The process that handed out the jobs is gone."""


def run_jobs(jobs: Iterator[Job], start_task: StartTask, processes: int) -> Iterator[tuple[Job, Result]]:
    """Do all jobs and yield (job, result) as they finish.

    Args:
        jobs: pulled only when a worker is about to be free, so making one may cost memory or disk.
        start_task: called once in each worker with a function that raises when the worker should give up; returns the
            function that does one job.
        processes: how many; 1 works in this process.

    Raises:
        UserError: a job raised it, or a worker was killed. Of several failing jobs the first one's error is raised.
        OSError: as a job raised it.
        WorkerError: a job raised anything else.
    """
    if processes == 1:
        yield from _run_here(jobs, start_task)
        return
    pool = _Pool(start_task, processes)
    try:
        yield from pool.run(jobs)
    finally:
        pool.stop()


def _run_here(jobs: Iterator[Job], start_task: StartTask) -> Iterator[tuple[Job, Result]]:
    task = None
    for job in jobs:
        task = task or start_task(lambda: None)
        try:
            result = task(job)
        except (UserError, OSError):
            raise
        except Exception as error:
            raise WorkerError(f"the work failed at {job}") from error
        yield job, result


class _Pool(Generic[Job, Result]):
    """Processes, and which job each of them has."""

    def __init__(self, start_task: StartTask, processes: int):
        # fork starts in milliseconds and shares the tokenizer's tables; elsewhere than on Linux it is not safe
        self._method = "fork" if sys.platform == "linux" else "spawn"
        self._start_task = start_task
        self._most = processes
        self._idle: list[Connection] = []
        self._working: dict[Connection, tuple[int, Job]] = {}
        self._processes: dict[Connection, Any] = {}

    def _free_worker(self) -> Connection | None:
        """One that waits for work; a new one where none does and there may be more; else None."""
        if self._idle or len(self._processes) == self._most:
            return self._idle.pop() if self._idle else None
        context = multiprocessing.get_context(self._method)
        ours, theirs = context.Pipe()
        inherited = [*self._processes, ours] if self._method == "fork" else []
        process = context.Process(target=_work, args=(theirs, inherited, self._start_task, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours

    def run(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, Result]]:
        failures: list[tuple[int, Exception]] = []
        numbered = enumerate(jobs)
        upcoming = next(numbered, None)
        while self._working or (upcoming and not failures):
            while upcoming and not failures and (worker := self._free_worker()):
                self._hand_out(worker, *upcoming)
                upcoming = next(numbered, None)
            for connection in wait(list(self._working)):
                number, job, kind, content = self._receive(connection)
                if kind == "result":
                    yield job, content
                else:
                    failures.append((number, _as_exception(job, kind, content)))
        if failures:  # earlier jobs have been waited for, so the first failure does not depend on timing
            raise min(failures, key=lambda failure: failure[0])[1]

    def _hand_out(self, connection: Connection, number: int, job: Job) -> None:
        self._working[connection] = number, job
        try:
            connection.send(job)
        except OSError:
            raise self._death(connection) from None

    def _receive(self, connection: Connection) -> tuple[int, Job, str, Any]:
        try:
            kind, content = connection.recv()
        except (EOFError, OSError):
            raise self._death(connection) from None
        number, job = self._working.pop(connection)
        self._idle.append(connection)
        return number, job, kind, content

    def _death(self, connection: Connection) -> UserError:
        process = self._processes[connection]
        process.join(5)
        code = process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else "ended unexpectedly"
        hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return UserError(f"a worker process {how}{hint} while it worked on {self._working[connection][1]}; the same "
                         "command goes on where this one stopped")

    def stop(self) -> None:
        for connection, process in self._processes.items():
            connection.close()  # an idle worker leaves
            if connection in self._working:
                process.kill()
        for process in self._processes.values():
            process.join(5)
            process.kill()
            process.join()


def _as_exception(job: Any, kind: str, content: Any) -> Exception:
    if kind == "bug":
        return WorkerError(f"the work failed at {job}\n{content}")
    return content


def _work(connection: Connection, inherited: list[Connection], start_task: StartTask, parent: int) -> None:
    """A worker's life: start, then one job after another until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which stops us
    for other in inherited:
        other.close()  # else a worker would keep its brothers' pipes open and never see the parent go

    def still_wanted() -> None:
        if os.getppid() != parent:
            raise OrphanedError

    task = None
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        try:
            task = task or start_task(still_wanted)
            message = "result", task(job)
        except OrphanedError:
            return
        except UserError as error:
            message = "user", error
        except OSError as error:
            message = "system", OSError(error.errno or errno.EIO, error.strerror or str(error), error.filename)
        except Exception:
            message = "bug", traceback.format_exc()
        try:
            connection.send(message)
        except OSError:
            return
