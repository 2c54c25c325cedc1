"""How many threads there are, how a batch is divided among them, and what workers promise."""

import os
import subprocess
import sys
import threading
from functools import partial

import pytest
import torch

from uer.runtime import threads
from uer.runtime.threads import Split, Workers, openmp_threads, quota_of_group, split_of, usable_cores


@pytest.mark.parametrize("name", [None, *threads.POLICY_VARIABLES])
def test_the_waiting_policy_is_set_unless_the_user_has_set_one(monkeypatch, name):
    for variable in threads.POLICY_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    if name:
        monkeypatch.setenv(name, "7")
    before = dict(os.environ)
    threads.set_waiting_policy()
    added = {key: value for key, value in os.environ.items() if before.get(key) != value}
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert added == ({} if name else {"GOMP_SPINCOUNT": str(threads.SPIN_COUNT)})


def test_it_comes_before_torch():
    code = "import sys; from uer import cli; cli.set_waiting_policy(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("group, files, cores", [
    ("0::/\n", {}, 1 << 30),
    ("0::/\n", {"cpu.max": "max 100000\n"}, 1 << 30),
    ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
    ("0::/a\n", {"a/cpu.max": "50000 100000\n"}, 1),
    ("4:cpu:/x\n", {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ("4:cpu:/x\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1 << 30),
    ("0::/\n", {"cpu.max": "damaged\n"}, 1 << 30)])
def test_the_quota_of_a_container(tmp_path, group, files, cores):
    (tmp_path / "cgroup").write_text(group)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert quota_of_group(tmp_path / "fs", tmp_path / "cgroup") == cores


def test_the_users_variables_win(monkeypatch):
    monkeypatch.setattr(threads, "quota_of_group", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    for name in threads.COUNT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert usable_cores() == 3
    monkeypatch.setenv("MKL_NUM_THREADS", "8")
    assert usable_cores() == 8


@pytest.mark.parametrize("count, rows, parts, openmp", [(1, 32, 1, 1), (2, 32, 2, 1), (7, 32, 4, 1), (64, 32, 4, 16),
                                                        (8, 2, 2, 4), (4, 1, 1, 4)])
def test_the_split_is_a_function_of_threads_and_rows(count, rows, parts, openmp):
    assert split_of(count, rows) == Split(parts, openmp)


def test_workers_return_in_order_and_have_their_openmp_threads():
    before = torch.get_num_threads()
    workers = Workers(Split(2, 1), 2)
    meeting = threading.Barrier(2, timeout=60)  # both jobs run at the same moment

    def job(number: int) -> tuple[int, int]:
        meeting.wait()
        return number, torch.get_num_threads()

    assert workers.run([partial(job, number) for number in range(2)]) == [(0, 1), (1, 1)]
    assert torch.get_num_threads() == before
    with openmp_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_no_more_parts_run_at_once_than_threads_allow():
    names = Workers(Split(4, 2), 2).run([lambda: threading.current_thread().name for _ in range(4)])
    assert len(set(names)) == 1


def test_the_first_error_is_raised_after_all_have_ended():
    ended = []

    def fails(text: str) -> None:
        ended.append(text)
        raise ValueError(text)

    with pytest.raises(ValueError, match="one"):
        Workers(Split(2, 1), 1).run([partial(fails, "one"), partial(fails, "two")])
    assert ended == ["one", "two"]
