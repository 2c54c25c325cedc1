"""The folder beside an unfinished dataset that keeps finished shards, so that a killed run can continue."""

import glob
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from uer.files import flush_to_disk
from uer.runtime.lock import OutputLock


class WorkFolder:
    """`<dataset>.work-<hash of the command's inputs>`; the dataset's lock is held while a run uses it.

    The hash covers everything that the shards depend on, so another command uses another folder.
    """

    def __init__(self, dataset_path: Path, inputs: dict[str, Any]):
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        self._dataset_path = dataset_path
        self.path = dataset_path.with_name(f"{dataset_path.name}.work-{digest}")

    def __enter__(self) -> "WorkFolder":
        self._lock = OutputLock(self._dataset_path, "--dataset_path")
        self.path.mkdir(exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self.path.is_dir() and not os.listdir(self.path):
            self.remove()  # nothing was begun, so nothing can be continued
        self._lock.release()

    def size(self) -> int:
        """Bytes of the files in the folder."""
        return sum(entry.stat().st_size for entry in os.scandir(self.path))

    def finished_shards(self) -> int:
        """How many shards earlier runs have finished: each has a marker."""
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
