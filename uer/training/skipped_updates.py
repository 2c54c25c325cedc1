"""Updates whose loss or gradient is not finite: they are left out, their batches written down, and too many in a row
stop the run.

The decision is made on the device. On CUDA the host looks at a copy that is `LOOK_EVERY` updates old, so it never
waits; the batches of any update can be made again from its number, so looking late loses nothing.
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
REMEMBERED = 16


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
        here = skipped & (self._indices == total % REMEMBERED)
        latest = torch.where(here, step, self._counts[3:])
        self._counts.copy_(torch.cat([torch.stack([total + skipped, row, torch.maximum(most, row)]), latest]))

    def look(self, step: int, now: bool = False) -> tuple[list[int], int]:
        """(updates skipped since the last look, most in a row); waits for the device only when `now`."""
        if self._immediate or now:
            self._copy.copy_(self._counts)
        elif step % LOOK_EVERY:
            return [], 0
        else:
            return self._look_behind()
        return self._news(self._copy.tolist())

    def _look_behind(self) -> tuple[list[int], int]:
        news: tuple[list[int], int] = ([], 0)
        if self._event is not None:
            self._event.synchronize()
            news = self._news(self._copy.tolist())
        self._copy.copy_(self._counts, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()
        return news

    def _news(self, counts: list[int]) -> tuple[list[int], int]:
        self.total, most = counts[0], counts[2]
        fresh = range(max(self._told, self.total - REMEMBERED), self.total)
        self._told = self.total
        return [counts[3 + number % REMEMBERED] for number in fresh], most


def dump_batches(prefix: str, step: int, rank: int, batches: list[Any],
                 decode: Callable[[list[int]], str] | None) -> Path:
    """Write the rows of update `step` on this rank to `<prefix>.skipped-<step>-rank<rank>.json`.

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
    """The error of a run that no longer learns."""
    return UserError(f"stopped: the loss or gradient of {limit} updates in a row was not finite "
                     f"(--max_skipped_updates); their batches are in {path}.skipped-*.json; "
                     "a lower --learning_rate or --max_grad_norm 1 may help")


def lost_weights_message(step: int) -> UserError:
    """The error of a run whose weights have become infinite or NaN, or began so."""
    return UserError(f"stopped: the weights are not finite after step {step}, so no checkpoint of it is written; "
                     "an earlier one with a lower --learning_rate or --max_grad_norm 1 may help, or other weights "
                     "where --pretrained_model_path had such from the start")
