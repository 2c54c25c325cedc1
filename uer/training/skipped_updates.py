"""Updates whose loss or gradient is not finite are skipped. Their batches are written to a file; too many of them in a
row stop the run.

Whether to skip is decided on the device. On CUDA the host reads a copy of the counts that is up to `LOOK_EVERY` updates
old, so that it never waits. This loses nothing, since the batches of an update can be made again from its number.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uer.errors import UserError
from uer.files import atomic_path

LOOK_EVERY = 50
REMEMBERED = 16  # how many numbers of skipped updates are kept until the host reads them


class SkipWatch:
    """Counts skipped updates.

    Attributes:
        total: how many updates were skipped, as last seen by the host.
    """

    def __init__(self, device: torch.device, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._immediate = device.type == "cpu"
        # [skipped in all, skipped in a row, most in a row, then the numbers of the latest skipped updates]
        self._counts = torch.full((3 + REMEMBERED,), -1, dtype=torch.int64, device=device)
        self._counts[:3] = 0
        self._indices = torch.arange(REMEMBERED, device=device)
        self._copy = torch.empty_like(self._counts, device="cpu", pin_memory=not self._immediate)
        self._event: Any = None
        self._told = 0

    def record(self, step: Tensor, skipped: Tensor) -> None:
        """Note whether update `step` (0-dim int64) was skipped (0-dim bool), both on the device."""
        if self._immediate and not skipped.item() and self._counts[1] == 0:
            return
        total, row, most = self._counts[:3].unbind()
        row = torch.where(skipped, row + 1, 0)
        # The list of the latest skipped updates is a ring: number `total` replaces the one at total % REMEMBERED.
        here = skipped & (self._indices == total % REMEMBERED)
        latest = torch.where(here, step, self._counts[3:])
        self._counts.copy_(torch.cat([torch.stack([total + skipped, row, torch.maximum(most, row)]), latest]))

    def look(self, step: int, now: bool = False) -> tuple[list[int], int]:
        """The updates that were skipped since the last call, and the largest number of skipped updates in a row.

        Args:
            step: how many updates are done.
            now: wait for the device, so that all updates so far are counted.
        """
        if self._immediate or now:
            self._copy.copy_(self._counts)
        elif step % LOOK_EVERY:
            return [], 0
        else:
            return self._look_behind()
        return self._news(self._copy.tolist())

    def _look_behind(self) -> tuple[list[int], int]:
        """Read the copy that was begun at the last call, and begin the next one."""
        news: tuple[list[int], int] = ([], 0)
        if self._event is not None:
            self._event.synchronize()
            news = self._news(self._copy.tolist())
        self._copy.copy_(self._counts, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()
        return news

    def _news(self, counts: list[int]) -> tuple[list[int], int]:
        """What `look` returns, from a copy of the counts."""
        self.total, most = counts[0], counts[2]
        fresh = range(max(self._told, self.total - REMEMBERED), self.total)
        self._told = self.total
        return [counts[3 + number % REMEMBERED] for number in fresh], most


def dump_batches(prefix: str, step: int, rank: int, batches: list[Any],
                 decode: Callable[[list[int]], str] | None) -> Path:
    """Write the rows of update `step`, counted from 1 as in reports, to `<prefix>.skipped-<step>-rank<rank>.json`.

    Each row: its sample number, its token ids and, with `decode`, its text.
    """
    rows = []
    for batch in batches:
        for sample, src, seg in zip(batch.samples.tolist(), batch.src.values.tolist(), batch.src.seg.tolist()):
            ids = [token for token, part in zip(src, seg) if part]
            rows.append({"sample": sample, "ids": ids, **({"text": decode(ids)} if decode else {})})
    path = Path(f"{prefix}.skipped-{step}-rank{rank}.json")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"step": step, "rows": rows}, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def stop_message(limit: int, path: str) -> UserError:
    """The error of a run with too many skipped updates in a row."""
    return UserError(f"stopped: the loss or gradient of {limit} updates in a row was not finite "
                     f"(--max_skipped_updates); their batches are in {path}.skipped-*.json; "
                     "a lower --learning_rate or --max_grad_norm 1 may help")


def lost_weights_message(step: int) -> UserError:
    """The error of a run whose weights are not finite."""
    return UserError(f"stopped: the weights are not finite after step {step}, so no checkpoint of it is written; "
                     "an earlier one with a lower --learning_rate or --max_grad_norm 1 may help, or other weights "
                     "where --pretrained_model_path had such from the start")
