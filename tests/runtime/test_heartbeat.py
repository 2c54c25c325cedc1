"""Which rank keeps the others waiting: judged by two looks at every rank's heartbeat."""

import pytest

from uer.runtime.failures import is_timeout
from uer.runtime.heartbeat import Heartbeat, judge


@pytest.mark.parametrize("before, after, waiting, told", [
    ({0: (5, 90), 1: (5, 90)}, {0: (8, 90), 1: (5, 90)}, [0], "rank 1 does not run"),
    ({0: (5, 9), 1: (5, 9), 2: (4, 9)}, {0: (8, 9), 1: (5, 9), 2: (4, 9)}, [0], "ranks 1, 2 do not run"),
    ({0: (5, 90), 1: (5, 88)}, {0: (8, 90), 1: (8, 88)}, [0], "rank 1 runs but is behind"),
    ({0: (5, 9), 1: (5, 9), 2: (5, 7)}, {0: (8, 9), 1: (5, 9), 2: (8, 7)}, [0, 1], "rank 2 runs but is behind"),
    ({0: (5, 9), 1: (5, 9)}, {0: (8, 9), 1: (8, 9)}, [0], ""),
    ({0: (5, 9), 1: (5, 9)}, {0: (8, 9), 1: (5, 9)}, [0, 1], "")])
def test_judgement(before, after, waiting, told):
    found = judge(before, after, waiting)
    assert found.startswith(told) and bool(found) == bool(told)


class _Store(dict):
    """A store of one process; `multi_get` hangs where it is told to, as one whose host is stopped."""

    hangs = False

    def set(self, key, value):
        self[key] = value

    def check(self, keys):
        return all(key in self for key in keys)

    def multi_get(self, keys):
        if self.hangs:
            import time

            time.sleep(1)
        return [self[key].encode() for key in keys]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("uer.runtime.heartbeat.INTERVAL", 0.02)


def test_a_rank_without_a_heartbeat_is_named(quick):
    store = _Store({"heartbeat 1": "3 17"})
    heartbeat = Heartbeat(store, 0, 2)
    heartbeat.calls = 17
    assert heartbeat.diagnose().startswith("rank 1 does not run")
    heartbeat.stop()
    assert int(store["heartbeat 0"].split()[0]) > 0


def test_a_store_that_does_not_answer_is_rank_0(quick, monkeypatch):
    store = _Store({"heartbeat 0": "3 17"})
    heartbeat = Heartbeat(store, 1, 2)
    store.hangs = True
    monkeypatch.setattr("uer.runtime.heartbeat.LOOKS", -20)
    assert heartbeat.diagnose().startswith("rank 0 does not run")
    heartbeat.stop()


def test_timeouts_are_told_from_other_failures():
    assert is_timeout(RuntimeError("[gloo] Timed out waiting 15000ms for recv operation to complete"))
    assert not is_timeout(RuntimeError("Connection closed by peer"))
    assert not is_timeout(ValueError("timeout"))
