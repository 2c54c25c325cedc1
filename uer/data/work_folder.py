"""The folder beside a dataset in the making: where finished shards wait, so that a killed run can go on."""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from uer.errors import UserError
from uer.files import flush_to_disk

LOCK_SECONDS = 10  # how long the workers of a killed run may take to notice that it is gone


class WorkFolder:
    """`<dataset>.work-<hash of the command's inputs>`, locked while a run uses it.

    The hash covers everything that decides what the shards hold, so another command never mistakes them for its own.
    """

    def __init__(self, dataset_path: Path, inputs: dict[str, Any]):
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        self._dataset_path = dataset_path
        self.path = dataset_path.with_name(f"{dataset_path.name}.work-{digest}")

    def __enter__(self) -> "WorkFolder":
        deadline = time.monotonic() + LOCK_SECONDS
        while not self._take_lock():
            if time.monotonic() > deadline:
                raise UserError(f"{self.path}: another preprocess.py is making this dataset")
            time.sleep(0.05)
        return self

    def _take_lock(self) -> bool:
        """Create the folder and lock it; False when another run holds it, or removed it in between."""
        self.path.mkdir(exist_ok=True)
        try:
            self._lock = open(self.path / "lock", "wb")  # noqa: SIM115 - held until __exit__
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self.path / "lock")):
                return True
        except OSError:  # held by another run, or removed by one that has just finished
            pass
        self._lock.close()
        return False

    def __exit__(self, *error: object) -> None:
        if self.path.is_dir() and os.listdir(self.path) == ["lock"]:
            self.remove()  # nothing was begun: there is nothing to go on with
        self._lock.close()

    def size(self) -> int:
        """Bytes of the files in the folder."""
        return sum(entry.stat().st_size for entry in os.scandir(self.path))

    def finished_shards(self) -> int:
        """How many shards earlier runs left finished: each has its marker."""
        return sum(entry.name.endswith(".json") for entry in os.scandir(self.path))

    def others(self) -> list[str]:
        """Folders that other commands for the same dataset left behind."""
        found = self._dataset_path.parent.glob(glob.escape(f"{self._dataset_path.name}.work-") + "*")
        return sorted(str(path) for path in found if path != self.path)

    def publish(self, made: Path) -> None:
        """Give the finished dataset its name and remove the folder."""
        os.replace(made, self._dataset_path)
        flush_to_disk(self._dataset_path.parent)
        self.remove()

    def remove(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self.path)
