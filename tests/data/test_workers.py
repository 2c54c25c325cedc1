"""Jobs in worker processes: results, failures, deaths."""

import os
import signal

import pytest

from uer.data.workers import WorkerError, run_jobs
from uer.errors import UserError


def _square(still_wanted):
    return lambda job: (job * job, os.getpid())


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_every_job_is_done_once(processes):
    done = {job: result for job, (result, _) in run_jobs(iter(range(40)), _square, processes)}
    assert done == {job: job * job for job in range(40)}


def test_no_more_processes_than_jobs_are_started():
    workers = {process for _, (_, process) in run_jobs(iter([1, 2]), _square, 50)}
    assert 1 <= len(workers) <= 2 and os.getpid() not in workers


def test_no_jobs_no_work():
    assert list(run_jobs(iter([]), _square, 3)) == []


def _failing(error):
    def start(still_wanted):
        def task(job):
            if job >= 3:
                raise error(job)
            return job
        return task
    return start


@pytest.mark.parametrize("processes", [1, 3])
def test_the_first_failing_job_is_the_one_that_is_reported(processes):
    with pytest.raises(UserError, match="bad line in 3"):
        list(run_jobs(iter(range(50)), _failing(lambda job: UserError(f"bad line in {job}")), processes))
    with pytest.raises(OSError, match="No space") as caught:
        list(run_jobs(iter(range(50)), _failing(lambda job: OSError(28, "No space left", f"file {job}")), processes))
    assert (caught.value.errno, caught.value.filename) == (28, "file 3")
    with pytest.raises(WorkerError, match="the work failed at 3"):
        list(run_jobs(iter(range(50)), _failing(lambda job: KeyError(job)), processes))


@pytest.mark.parametrize(("end", "how"), [(lambda: os.kill(os.getpid(), signal.SIGKILL), "killed by SIGKILL.*memory"),
                                          (lambda: os._exit(7), "ended unexpectedly")])
def test_a_worker_that_dies_is_named_with_its_job(end, how):
    def start(still_wanted):
        return lambda job: end() if job == 5 else job

    with pytest.raises(UserError, match=f"{how}.* while it worked on 5"):
        list(run_jobs(iter(range(50)), start, 2))


def test_workers_end_when_nobody_wants_more_results():
    results = run_jobs(iter(range(1000)), _square, 2)
    _, (_, process) = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
