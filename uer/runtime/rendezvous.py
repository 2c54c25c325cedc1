"""Connects the ranks: rank 0 hosts a key-value store, where every rank writes its number and waits for the others."""

import os
import threading
import time
from datetime import timedelta

import torch.distributed as dist

from uer.errors import UserError
from uer.runtime.heartbeat import Heartbeat
from uer.runtime.launch import RankInfo

NOTICE_SECONDS = 10
"""After so many seconds a line is printed that names the missing ranks."""


def meet(rank_info: RankInfo, timeout: timedelta) -> dist.Store:
    """Connect to the store that all ranks use, and wait until every rank has done so.

    Raises:
        UserError: the port is taken, rank 0 cannot be reached, or a rank did not come within `timeout`.
    """
    where = f"{rank_info.host}:{rank_info.port}"
    notice = threading.Timer(NOTICE_SECONDS, print, [f"rank {rank_info.rank} waits for rank 0 at {where}"],
                             {"flush": True})
    notice.start()
    try:
        store = dist.TCPStore(rank_info.host, rank_info.port, rank_info.world_size, is_master=rank_info.rank == 0
                              and not rank_info.store_exists, timeout=timeout, wait_for_workers=False)
    except (RuntimeError, ValueError) as error:
        if "in use" in str(error).lower():
            raise UserError(f"--master_ip: the port of {where} is in use; name another one") from None
        seconds = f"{timeout.total_seconds():.0f} s"
        raise UserError(f"rank {rank_info.rank} could not reach rank 0 at {where} within {seconds} (--master_ip, "
                        "--collective_timeout)") from None
    finally:
        notice.cancel()
    store = dist.PrefixStore(_prefix(), store)
    store.set(f"rank {rank_info.rank}", "here")
    _await_all(store, rank_info, timeout.total_seconds())
    return store


def _await_all(store: dist.Store, rank_info: RankInfo, seconds: float) -> None:
    """Asks again and again, because torch prints a warning for each wait that ends without an answer."""
    missing, start, notice, pause = list(range(rank_info.world_size)), time.monotonic(), NOTICE_SECONDS, 0.01
    limit = seconds + (rank_info.rank == 0)  # without rank 0, which hosts the store, the others cannot ask
    while missing and not store.check([f"rank {rank}" for rank in missing]):
        waited = time.monotonic() - start
        if waited < min(notice, limit):
            time.sleep(min(pause, limit - waited))
            pause = min(2 * pause, 0.5)
            continue
        notice += NOTICE_SECONDS
        missing = [rank for rank in missing if not store.check([f"rank {rank}"])]
        names = ", ".join(map(str, missing))
        if missing and waited >= limit:
            raise UserError(f"no response from rank {names} of {rank_info.world_size} within {seconds:.0f} s "
                            "(--collective_timeout); is it running, and can it reach --master_ip?")
        if missing and rank_info.rank == min(set(range(rank_info.world_size)) - set(missing)):
            print(f"waiting for rank {names}", flush=True)


def start_heartbeat(rank_info: RankInfo, timeout: timedelta) -> Heartbeat:
    """This rank's heartbeat, over a connection of its own: the process group's may be waiting when it is needed."""
    store = dist.TCPStore(rank_info.host, rank_info.port, None, is_master=False, timeout=timeout,
                          wait_for_workers=False)
    return Heartbeat(dist.PrefixStore(_prefix(), store), rank_info.rank, rank_info.world_size)


def _prefix() -> str:
    """A prefix for the keys in the store: torchrun's restarts use the same store, but each has its own keys."""
    return f"uer-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
