"""Finds the rank that the others wait for: every rank writes to a store that all can read, twice a second, how often it
has written and how many collective operations it has begun.

When a collective operation times out, the waiting ranks fail, and their error says only that some rank did not respond.
The store says which one: a rank whose heartbeat has stopped (its process is stopped, or its machine cannot be reached),
or the rank that has begun fewer operations than the others.
"""

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Protocol

INTERVAL = 0.5
LOOKS = 3
"""A heartbeat has stopped if nothing is written for so many intervals."""


class Store(Protocol):
    """The methods of torch's stores that are used here."""

    def set(self, key: str, value: str) -> None:
        """Write."""

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there."""

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Read; waits for keys that are missing."""


class Heartbeat:
    """One rank's heartbeat, which a thread of its own writes.

    Attributes:
        calls: collective operations that this rank has begun so far; the caller of an operation adds 1.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self.calls = 0
        self._store, self._rank, self._world_size = store, rank, world_size
        self._over = threading.Event()
        self._beat(0)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join(INTERVAL)

    def diagnose(self) -> str:
        """Which ranks do not respond, as text; "" if the store does not say. It takes two seconds, at most four.

        The store is in the process of rank 0: if the store does not respond, neither does rank 0.
        """
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(self._look()), daemon=True)
        thread.start()
        thread.join(2 * LOOKS * INTERVAL + 1)
        if thread.is_alive():
            return "rank 0 does not run (it is stopped, or its machine cannot be reached)"
        return found[0] if found else ""

    def _run(self) -> None:
        number = 0
        while not self._over.wait(INTERVAL):
            number += 1
            try:
                self._beat(number)
            except RuntimeError:  # rank 0 has ended, and the store with it
                return

    def _beat(self, number: int) -> None:
        self._store.set(f"heartbeat {self._rank}", f"{number} {self.calls}")

    def _look(self) -> str:
        with contextlib.suppress(RuntimeError):
            self._store.set(f"waiting {self._rank}", "yes")
            before = self._read()
            time.sleep(LOOKS * INTERVAL)
            after = self._read()
            # A rank that has itself found that another one is missing waits; its heartbeat may end at any time.
            return judge(before, after, [rank for rank in after
                                         if rank == self._rank or self._store.check([f"waiting {rank}"])])
        return ""

    def _read(self) -> dict[int, tuple[int, int]]:
        """rank -> (beats, calls)"""
        values = self._store.multi_get([f"heartbeat {rank}" for rank in range(self._world_size)])
        return {rank: tuple(map(int, value.split())) for rank, value in enumerate(values)}


def judge(before: Mapping[int, tuple[int, int]], after: Mapping[int, tuple[int, int]], waiting: list[int]) -> str:
    """The ranks that caused a timeout, as text; "" if none did.

    >>> judge({0: (10, 5), 1: (9, 5)}, {0: (13, 5), 1: (9, 5)}, waiting=[0])
    'rank 1 does not run (stopped, or the machine cannot be reached)'
    >>> judge({0: (10, 5), 1: (9, 4)}, {0: (13, 5), 1: (12, 4)}, waiting=[0])
    'rank 1 runs but is behind the others'

    Args:
        before, after: rank -> (beats, calls), read at two times.
        waiting: ranks that did not cause it, since they wait themselves.
    """
    others = [rank for rank in after if rank not in waiting]
    silent = [rank for rank in others if before[rank][0] == after[rank][0]]
    if silent:
        return f"{_named(silent, 'does', 'do')} not run (stopped, or the machine cannot be reached)"
    furthest = max(calls for _, calls in after.values())
    behind = [rank for rank in others if after[rank][1] < furthest]
    return f"{_named(behind, 'runs but is', 'run but are')} behind the others" if behind else ""


def _named(ranks: list[int], one: str, many: str) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} {one if len(ranks) == 1 else many}"
