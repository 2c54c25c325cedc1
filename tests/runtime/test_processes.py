"""Jobs in worker processes: results, failures, deaths; nothing outlives the process that began it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tools.processes import is_running, wait_for
from uer.errors import UserError
from uer.runtime.processes import WorkerError, death_note, death_signal, run_jobs, signal_name, start_method

ROOT = Path(__file__).resolve().parent.parent.parent


def _square(worker):
    return lambda job: (job * job, os.getpid())


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_every_job_is_done_once(processes):
    done = {job: result for job, (result, _) in run_jobs(range(40), _square, processes)}
    assert done == {job: job * job for job in range(40)}


def test_no_more_processes_than_jobs_are_started():
    workers = {process for _, (_, process) in run_jobs([1, 2], _square, 50)}
    assert 1 <= len(workers) <= 2 and os.getpid() not in workers


def test_no_jobs_no_work():
    assert list(run_jobs([], _square, 3)) == []


def test_jobs_are_pulled_only_when_a_worker_is_about_to_be_free():
    pulled = []

    def jobs():
        for job in range(100):
            pulled.append(job)
            yield job

    results = run_jobs(jobs(), _square, 2)
    next(results)
    assert len(pulled) <= 4  # one for each of two workers, one for the next to be free, one that waits
    results.close()


def _slow_first(worker):
    def task(job):
        time.sleep(0.3 if job == 0 else 0.0)
        return worker
    return task


def test_results_come_as_they_finish():
    results = list(run_jobs(range(6), _slow_first, 2))
    assert [job for job, _ in results] == [1, 2, 3, 4, 5, 0]
    assert {worker for _, worker in results} == {0, 1}  # the workers know their numbers


def _failing(error):
    def start(worker):
        def task(job):
            if job >= 3:
                raise error(job)
            return job
        return task
    return start


@pytest.mark.parametrize("processes", [1, 3])
def test_the_first_failing_job_is_the_one_that_is_reported(processes):
    with pytest.raises(UserError, match="bad line in 3"):
        list(run_jobs(range(50), _failing(lambda job: UserError(f"bad line in {job}")), processes))
    with pytest.raises(OSError, match="No space") as caught:
        list(run_jobs(range(50), _failing(lambda job: OSError(28, "No space left", f"file {job}")), processes))
    assert (caught.value.errno, caught.value.filename) == (28, "file 3")
    with pytest.raises(WorkerError, match="the work failed at 3"):
        list(run_jobs(range(50), _failing(lambda job: KeyError(job)), processes))


def test_a_result_that_cannot_be_sent_is_a_bug_of_that_job():
    with pytest.raises(WorkerError, match=r"the work failed at 0\n(.*\n)*.*pickle"):
        list(run_jobs(range(2), lambda worker: lambda job: lambda: None, 2))


@pytest.mark.parametrize("finish_earlier", [True, False])
def test_a_failure_stops_the_rest(tmp_path, finish_earlier):
    """Job 0 is under way when job 1 fails; job 2 was never begun."""
    def start(worker):
        def task(job):
            (tmp_path / f"{job}.begun").touch()
            if job == 1:
                wait_for(lambda: (tmp_path / "0.begun").exists())
                raise UserError("job 1 failed")
            time.sleep(0.3 if finish_earlier else 20)
            (tmp_path / f"{job}.ended").touch()
            return job
        return task

    done = []
    with pytest.raises(UserError, match="job 1 failed"):
        for job, _ in run_jobs(range(50), start, 2, finish_earlier=finish_earlier):
            done.append(job)
    assert done == ([0] if finish_earlier else [])
    assert (tmp_path / "0.ended").exists() == finish_earlier
    assert not (tmp_path / "2.begun").exists()


@pytest.mark.parametrize(("end", "how"), [
    (lambda: os.kill(os.getpid(), signal.SIGKILL), r"was killed by SIGKILL \(out of memory\?\)"),
    (lambda: os._exit(7), "ended with status 7")])
def test_a_worker_that_dies_is_named_with_its_job(end, how):
    def start(worker):
        return lambda job: end() if job == 5 else job

    with pytest.raises(UserError, match=f"a worker process {how} while it worked on 5; try less$"):
        list(run_jobs(range(50), start, 2, advice="try less"))


def test_workers_end_when_nobody_wants_more_results():
    results = run_jobs(range(1000), _square, 2)
    _, (_, process) = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


DRIVER = """
import os, sys, time
from uer.runtime.processes import run_jobs
def start(worker):
    def task(job):
        if job > 1:
            time.sleep(60)
        return os.getpid()
    return task
if __name__ == "__main__":
    for _, process in run_jobs(range(50), start, 2, has_cuda="spawn" in sys.argv):
        print(process, flush=True)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_die_when_their_parent_is_killed(tmp_path, method):
    (tmp_path / "driver.py").write_text(DRIVER)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "driver.py"), method], stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})
    workers = {int(parent.stdout.readline()) for _ in range(2)}
    assert all(map(is_running, workers))
    parent.kill()
    parent.communicate()  # returns when the workers, who share the pipe, have ended too
    wait_for(lambda: not any(map(is_running, workers)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a program of its parent's death")
def test_a_program_gets_a_signal_when_its_parent_is_killed(tmp_path):
    child = "import os, signal, sys; print(os.getpid(), flush=True); " \
            "signal.sigwait([signal.SIGTERM]); open(sys.argv[1], 'w').close()"
    driver = "import signal, subprocess, sys; from uer.runtime.processes import death_signal; " \
             "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); " \
             "subprocess.run([sys.executable, '-c', *sys.argv[1:]], preexec_fn=death_signal(signal.SIGTERM))"
    parent = subprocess.Popen([sys.executable, "-c", driver, child, str(tmp_path / "told")], stdout=subprocess.PIPE,
                              text=True, cwd=ROOT)
    process = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    wait_for(lambda: not is_running(process))
    assert (tmp_path / "told").exists()


def test_how_a_process_ended_in_words():
    assert death_note(0) == "ended with status 0"
    assert death_note(-signal.SIGTERM) == "was killed by SIGTERM"
    assert death_note(None) == "does not respond"
    assert signal_name(signal.SIGINT) == "SIGINT" and signal_name(250) == "signal 250"
    assert death_signal(signal.SIGTERM) is None or sys.platform == "linux"
    assert start_method(has_cuda=True) == "spawn"


def test_the_module_is_light():
    code = "import sys, uer.runtime.processes; sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
