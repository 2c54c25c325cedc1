"""Worker processes: starting them, giving them jobs, ending them with their parent, and describing how they ended.

    for job, result in run_jobs(range(10), start_task, processes=4):
        ...

where `start_task(worker)` is called once in each worker process and returns the function that does one job. Imports no
torch, so that commands that need none start fast.
"""

import contextlib
import ctypes
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from uer.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
# Called once in each worker with the worker's number, counted from 0; returns the function that does one job.
StartTask = Callable[[int], Callable[[Job], Result]]

PARENT_CHECK_SECONDS = 0.5
DEATH_SECONDS = 5.0
PR_SET_PDEATHSIG = 1


class WorkerError(RuntimeError):
    """An unexpected exception in a worker; the message contains the job and the worker's traceback."""


def start_method(has_cuda: bool = False) -> str:
    """How `multiprocessing` starts workers: "fork" or "spawn".

    A fork starts in milliseconds and shares imported modules and loaded data with its parent. It is not possible with
    CUDA, and safe only on Linux.

    Args:
        has_cuda: the processes may use GPUs.
    """
    return "fork" if sys.platform == "linux" and not has_cuda else "spawn"


def death_note(exitcode: int | None) -> str:
    """How a process ended, as the end of a sentence.

    >>> death_note(-9), death_note(7)
    ('was killed by SIGKILL (out of memory?)', 'ended with status 7')

    Args:
        exitcode: as `multiprocessing` and `subprocess` give it: negative for a signal, None while the process runs.
    """
    if exitcode is None:
        return "does not respond"
    if exitcode >= 0:
        return f"ended with status {exitcode}"
    hint = " (out of memory?)" if exitcode == -signal.SIGKILL else ""
    return f"was killed by {signal_name(-exitcode)}{hint}"


def signal_name(number: int) -> str:
    """15 -> "SIGTERM"; a number without a name of its own, such as a real-time signal's, -> "signal 40"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextlib.contextmanager
def on_stop_signal(handler: Callable[[int], None]) -> Iterator[None]:
    """A context in which SIGTERM and Ctrl-C call `handler` with the signal's number, and do nothing else."""
    before = {number: signal.signal(number, lambda number, frame: handler(number))
              for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def die_with_parent() -> None:
    """End this process by SIGKILL when its parent ends, however that ends.

    To be called first in a process that `multiprocessing` started. On Linux the kernel sends the signal, when the
    thread that started this process ends; elsewhere a thread asks twice a second whether the parent is still there.
    """
    parent = multiprocessing.parent_process().pid
    if not _ask_for_signal(signal.SIGKILL):
        threading.Thread(target=_watch_parent, args=(parent,), name="parent watch", daemon=True).start()
    if os.getppid() != parent:  # it ended before the signal was asked for
        os.kill(os.getpid(), signal.SIGKILL)


def death_signal(number: int) -> Callable[[], None] | None:
    """The same for a program: a `preexec_fn` for `subprocess.Popen`; None elsewhere than on Linux.

    The program begins with this: it gets the signal `number` when the process that calls `death_signal` ends. A
    `preexec_fn` is safe only where the calling process has one thread.
    """
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    _libc()  # loaded before the fork

    def prepare() -> None:
        _ask_for_signal(number)
        if os.getppid() != parent:
            os.kill(os.getpid(), number)

    return prepare


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _ask_for_signal(number: int) -> bool:
    """Whether the kernel promised to send the signal at the parent's end."""
    return sys.platform == "linux" and _libc().prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def run_jobs(jobs: Iterable[Job], start_task: StartTask, processes: int, *, has_cuda: bool = False,
             finish_earlier: bool = True,
             advice: str = "the same command continues where this one stopped") -> Iterator[tuple[Job, Result]]:
    """Do all jobs in worker processes and yield (job, result) as they finish; no worker outlives this process.

    Args:
        jobs: pulled only when a worker is about to be free, so making one may cost memory or disk.
        start_task: called once in each worker with the worker's number; returns the function that does one job. With
            spawned workers it has to be picklable, as jobs and results always have to be.
        processes: how many; 1 works in this process.
        has_cuda: workers may use GPUs, so they are spawned.
        finish_earlier: after a failure the jobs that were given before the failing one are finished first, so that
            which failure is raised does not depend on timing. Otherwise everything stops at once.
        advice: what the user can do about a worker that was killed.

    Raises:
        UserError: a job raised it, or a worker was killed; then the message names the job.
        OSError: as a job raised it.
        WorkerError: a job raised anything else.
    """
    if processes == 1:
        yield from _run_here(jobs, start_task)
        return
    pool = _Pool(start_task, processes, start_method(has_cuda), finish_earlier, advice)
    try:
        yield from pool.run(jobs)
    finally:
        pool.stop()


def _run_here(jobs: Iterable[Job], start_task: StartTask) -> Iterator[tuple[Job, Result]]:
    task = None
    for job in jobs:
        task = task or start_task(0)
        try:
            result = task(job)
        except (UserError, OSError):
            raise
        except Exception as error:
            raise WorkerError(f"the work failed at {job}") from error
        yield job, result


class _Pool(Generic[Job, Result]):
    """Worker processes, each with a pipe to it, and the job that each of them has."""

    def __init__(self, start_task: StartTask, processes: int, method: str, finish_earlier: bool, advice: str) -> None:
        self._context = multiprocessing.get_context(method)
        self._start_task = start_task
        self._most = processes
        self._finish_earlier = finish_earlier
        self._advice = advice
        self._idle: list[Connection] = []
        self._working: dict[Connection, tuple[int, Job]] = {}
        self._processes: dict[Connection, Any] = {}

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """(job, result) for each job as it finishes."""
        failures: dict[int, Exception] = {}
        numbered = enumerate(jobs)
        upcoming = next(numbered, None)
        while self._is_awaited(failures) or (upcoming and not failures):
            while upcoming and not failures and (worker := self._free_worker()):
                self._hand_out(worker, *upcoming)
                upcoming = next(numbered, None)
            for connection in wait(list(self._working)):
                number, job, kind, content = self._receive(connection)
                if kind == "result":
                    yield job, content
                else:
                    failures[number] = _as_exception(job, kind, content)
        if failures:
            raise failures[min(failures)]

    def _is_awaited(self, failures: dict[int, Exception]) -> bool:
        """Whether a worker has a job whose outcome is still wanted."""
        if not failures:
            return bool(self._working)
        return self._finish_earlier and any(number < min(failures) for number, _ in self._working.values())

    def _free_worker(self) -> Connection | None:
        """A worker without a job; a new one where none is free and there may be more; else None."""
        if self._idle or len(self._processes) == self._most:
            return self._idle.pop() if self._idle else None
        ours, theirs = self._context.Pipe()
        number = len(self._processes)
        process = self._context.Process(target=_work, args=(theirs, self._start_task, number), name=f"worker {number}",
                                        daemon=True)
        process.start()
        theirs.close()  # the worker has the only other end, so that its death closes the pipe
        self._processes[ours] = process
        return ours

    def _hand_out(self, connection: Connection, number: int, job: Job) -> None:
        self._working[connection] = number, job
        try:
            connection.send((job,))
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
        process.join(DEATH_SECONDS)
        _, job = self._working[connection]
        return UserError(f"a worker process {death_note(process.exitcode)} while it worked on {job}; {self._advice}")

    def stop(self) -> None:
        """End all workers: idle ones leave by themselves, working ones are killed."""
        for connection, process in self._processes.items():
            if connection in self._working:
                process.kill()
            else:
                with contextlib.suppress(OSError):  # it has ended already
                    connection.send(None)
        for connection, process in self._processes.items():
            process.join(DEATH_SECONDS)
            process.kill()
            process.join()
            connection.close()


def _as_exception(job: Any, kind: str, content: Any) -> Exception:
    return WorkerError(f"the work failed at {job}\n{content}") if kind == "bug" else content


def _work(connection: Connection, start_task: StartTask, number: int) -> None:
    """The main function of a worker: it does one job after another until it receives None or the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which stops its workers
    die_with_parent()
    task = None
    with contextlib.suppress(EOFError, OSError):
        while (message := connection.recv()) is not None:
            try:
                task = task or start_task(number)
                connection.send(("result", task(*message)))
            except UserError as error:
                connection.send(("user", error))
            except OSError as error:
                connection.send(("system", _plain(error)))
            except Exception:  # a result that cannot be pickled among them
                connection.send(("bug", traceback.format_exc()))


def _plain(error: OSError) -> OSError:
    """A copy that can be sent to another process, whatever subclass `error` is of."""
    return OSError(error.errno or errno.EIO, error.strerror or str(error), error.filename)
