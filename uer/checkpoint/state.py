"""Training states, `<output_model_path>.state-<step>`: everything that a run needs to continue with the same results.

Where each rank has all parameters, a training state is one file of plain tensors, numbers and JSON text, which
`torch.load` reads with `weights_only`: the step, the model and the optimizer's state by parameter name, the loss
scale, the sums since the last report, and the settings that identify the run. It does not depend on the number of
ranks. Random numbers are functions of (seed, step); the state of torch's generator is stored as well, but not needed.

Where parameters are divided among the ranks, a training state is a folder: each rank has written its part
(`uer.runtime.sharded_state`), and the file `run.pt` has the rest and the checksums of the parts. Any number of ranks
continues from it, with any division.
"""

import json
import os
import re
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uer.checkpoint import files as checkpoint
from uer.checkpoint.settings import ENDING
from uer.errors import UserError
from uer.files import TEMPORARY_ENDING, flush_to_disk
from uer.json_files import parse_json
from uer.paths import existing
from uer.runtime import sharded_state

FORMAT_VERSION = 1
RUN_FILE = "run.pt"
"""In the folder of a sharded state: everything but the tensors of the model and the optimizer."""
SUMMED_BYTES = 1 << 24
PARTS = {"step": int, "scale": Mapping, "sums": Mapping, "random": Tensor}
"""Parts of every training state beside the tensors and the settings, and their types."""


class StateFolder:
    """The training states beside an output path."""

    def __init__(self, output_model_path: str | os.PathLike, keep: int) -> None:
        self.output = Path(output_model_path)
        self.keep = keep

    def weights_path(self, step: int) -> Path:
        """Where the weights of a step are."""
        return self.output.with_name(f"{self.output.name}-{step}")

    def state_path(self, step: int) -> Path:
        """Where the training state of a step is."""
        return self.output.with_name(f"{self.output.name}.state-{step}")

    def steps(self) -> list[int]:
        """The steps whose states exist, newest first."""
        prefix = f"{self.output.name}.state-"
        if not self.output.parent.is_dir():
            return []
        names = [path.name.removeprefix(prefix) for path in self.output.parent.iterdir()
                 if path.name.startswith(prefix)]
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def prune(self, newest: int) -> None:
        """Remove all but `keep` of the states up to step `newest`, which was saved last.

        Later ones are there where --resume named an earlier state; they would outlive what the run saves now.
        """
        for step in [step for step in self.steps() if step <= newest][self.keep:]:
            remove(self.state_path(step))

    def unfinished_path(self, step: int) -> Path:
        """Where the ranks write the state of a step; the same on all of them."""
        path = self.state_path(step)
        return path.with_name(f"{path.name}.{step % 2**32:08x}.tmp")

    def complete(self, step: int, content: Mapping[str, Any]) -> None:
        """Give a folder that all ranks have written its `content` and its name."""
        folder, final = self.unfinished_path(step), self.state_path(step)
        sums = {path.name: list(_check_sum(path)) for path in sorted(folder.iterdir())}
        checkpoint.write({**content, "files": sums}, folder / RUN_FILE)
        flush_to_disk(folder)
        remove(final)
        os.replace(folder, final)
        flush_to_disk(final.parent)

    def tidy(self) -> None:
        """Remove the unfinished files of a killed run."""
        names = rf"(-\d+({re.escape(ENDING)})?|\.state-\d+)"
        unfinished = re.compile(re.escape(self.output.name) + names + TEMPORARY_ENDING)
        for path in existing(self.output.parent, unfinished):
            remove(path)

    def set_aside(self) -> list[int]:
        """Rename the states of an earlier run, so that a new run with the same name does not continue from them."""
        steps = self.steps()
        for step in steps:
            path = self.state_path(step)
            aside = path.with_name(path.name + ".old")
            remove(aside)  # a folder is not replaced by `os.replace`
            os.replace(path, aside)
        return steps

    def find(self, resume: str, say: Callable[[str], None]) -> tuple[dict[str, Any], Path] | None:
        """The state to continue from, as `--resume` says. Where the newest is damaged, the one before it is used.

        Raises:
            UserError: the state that was named, or every state there is, is damaged.
        """
        if resume == "never":
            return None
        if resume != "auto":
            return read_state(Path(resume)), Path(resume)
        problems = []
        for step in self.steps():
            try:
                return read_state(self.state_path(step)), self.state_path(step)
            except UserError as error:
                problems.append(str(error))
                say(f"{error}; falling back to the state before it")
        if problems:
            raise UserError(f"{problems[0]}; no training state of this run can be read (--resume never starts anew)")
        return None


def remove(path: Path) -> None:
    """Remove a state, a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """A training state's content, with its path as "path". That of a folder has it as "folder" too and no tensors of
    the model and the optimizer, which each rank reads by itself.

    Raises:
        UserError: the state is missing, damaged or something else.
    """
    content = _read_folder(path) if path.is_dir() else checkpoint.read(path)
    if not isinstance(content, Mapping) or "settings" not in content or not {"model", "folder"} & content.keys():
        raise UserError(f"{path}: not a training state")
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: a training state of format version {content.get('format_version')}; "
                        f"this program reads version {FORMAT_VERSION}")
    kinds = {**PARTS, **({"model": Mapping, "optimizer": Mapping} if "model" in content else {})}
    wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
    if wrong or content["step"] < 0:
        raise UserError(f"{path}: a damaged training state: its entry '{(wrong or ['step'])[0]}' is wrong or missing")
    return {**content, "path": str(path)}


def _read_folder(path: Path) -> dict[str, Any]:
    if not (path / RUN_FILE).exists():
        raise UserError(f"{path}: not a training state: no {RUN_FILE} in this folder")
    content = checkpoint.read(path / RUN_FILE)
    if not isinstance(content, Mapping) or not isinstance(content.get("files"), Mapping):
        raise UserError(f"{path}: not a training state")
    for name, expected in content["files"].items():
        file = path / Path(name).name
        if not file.exists():
            raise UserError(f"{path}: damaged: {name} is missing")
        if list(_check_sum(file)) != expected:
            raise UserError(f"{path}: damaged: {name} does not match its checksum")
    return {**content, "folder": str(path)}


def read_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The whole weights of a state that `read_state` has read.

    Raises:
        UserError: it is damaged.
    """
    if "model" in state:
        return dict(state["model"])
    folder = Path(state["folder"])
    weights = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in sharded_state.shapes(folder).items()
               if name.startswith("model.")}
    sharded_state.load_(weights, folder, alone=True)
    found = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    return {**found, **{name: found[first] for name, first in state["tied"].items()}}


def _check_sum(path: Path) -> tuple[int, int]:
    """Bytes and CRC-32 of a file."""
    size, crc = 0, 0
    with path.open("rb") as file:
        while block := file.read(SUMMED_BYTES):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


START_ANEW = ("Start anew with --resume never or another --output_model_path; to train on from its weights, name them "
              "as --pretrained_model_path")


def check_settings(saved: str, now: Mapping[str, Any], path: Path, advice: str = START_ANEW) -> None:
    """Check that a state belongs to this run. A setting that only one of the two has is not compared.

    Args:
        saved: the state's settings, as JSON.
        now: this run's.
        advice: what to do where they differ.

    Raises:
        UserError: a setting differs; the message names each.
    """
    before = parse_json(saved, path, half_pairs=True) if isinstance(saved, str) else None
    if not isinstance(before, dict):
        raise UserError(f"{path}: a damaged training state: its settings are no JSON object")
    after = json.loads(json.dumps(now))
    different = [f"{name} was {json.dumps(before[name], ensure_ascii=False)} and is now "
                 f"{json.dumps(after[name], ensure_ascii=False)}"
                 for name in sorted(before.keys() & after.keys()) if before[name] != after[name]]
    if different:
        raise UserError(f"{path}: belongs to a run with other settings: {'; '.join(different)}. {advice}")


class BackgroundWriter:
    """Runs one writing job at a time in a thread; the error of a job is raised by the next call.

    Attributes:
        seconds: how long the last finished job took.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Wait for the job before, then start this one."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint writer")
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self._thread is not None:
            self._thread.join()
        self.poll()

    def poll(self) -> bool:
        """Whether a job has finished since the last call.

        Raises:
            whatever the job raised.
        """
        if self._thread is None or self._thread.is_alive():
            return False
        self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return True

    def _run(self, job: Callable[[], None]) -> None:
        started = time.perf_counter()
        try:
            job()
        except BaseException as error:
            self._error = error
        self.seconds = time.perf_counter() - started
