"""Runs the commands that are left to do, as child processes; they save and end when this process is stopped or dies.

A child writes to its log file directly, not through a pipe, so the log is complete even when this process is killed.
Children inherit the lock of the output folder: a new start waits until the children of a killed run have saved.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uer.errors import UserError
from uer.family.commands import FIRST_PORT, Command, FamilyFolder, cores
from uer.family.costs import Cost
from uer.family.mps import Mps, available
from uer.family.scheduling import DeviceGroup, device_groups, next_to_start, start_order
from uer.json_files import parse_json
from uer.runtime.lock import Lock
from uer.runtime.processes import death_note, death_signal, on_stop_signal, signal_name
from uer.text import hours

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 300.0
"""How long the children of a killed run may take to save."""
TAIL_BYTES = 8192


class Stopped(Exception):
    """SIGTERM or Ctrl-C arrived, and all children have saved. `number` is the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def lock_folder(folder: Path, say: Callable[[str], None], patience: float = PATIENCE_SECONDS) -> Lock:
    """The lock of an output folder.

    Args:
        folder: the output folder.
        say: prints a line.
        patience: seconds to wait for another run.

    Raises:
        UserError: another run still works in the folder after `patience` seconds.
    """
    return Lock(folder / ".lock", f"--output_dir {folder}: another run is working there", patience,
                lambda: say(f"waiting for an earlier run in {folder} to save and end"))


@dataclass
class Job:
    """The commands of one model (or of the datasets), which run one after another.

    Attributes:
        name: the model's name.
        commands: what is left to run; the first one runs now.
        cost: of the model; None for datasets.
        group: the devices that the model trains on.
        process: of the first command.
        started_at: `time.monotonic()` of the start.
        printed: the training report that was printed last.
    """

    name: str
    commands: list[Command]
    cost: Cost | None = None
    group: DeviceGroup | None = None
    process: subprocess.Popen | None = None
    started_at: float = field(default_factory=time.monotonic)
    printed: dict[str, Any] | None = None


class Runner:
    """Runs the commands of an output folder: first the datasets, then the models, as many at once as the plan says.

    Args:
        folder: the files and their commands.
        lock: the folder's lock, which children inherit.
        say: prints a line.
    """

    def __init__(self, folder: FamilyFolder, lock: Lock, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.lock = lock
        self.say = say
        self.running: list[Job] = []
        self.mps = Mps()
        self._signal = 0
        self._printed_at = time.monotonic()

    def run(self, costs: Sequence[Cost], devices: int) -> None:
        """Make the models that are not finished.

        Args:
            costs: of all models of the plan.
            devices: how many devices there are.

        Raises:
            UserError: a command failed; the message has the last line of its log, and names the log.
            Stopped: SIGTERM or Ctrl-C arrived, and the children have saved.
        """
        with on_stop_signal(self._on_signal):
            unfinished = [cost for cost in costs if not self.folder.finished(cost.size)]
            with self._mps(unfinished):  # until the children have saved
                self._make(unfinished, devices)

    def _make(self, unfinished: Sequence[Cost], devices: int) -> None:
        try:
            if unfinished:
                self._make_datasets()
            self._train(unfinished, devices)
        except BaseException:
            self._stop_children()
            raise

    def _mps(self, costs: Sequence[Cost]) -> Mps:
        """CUDA MPS, where several models train on one GPU; it serves this process and its children until they end."""
        shared = self.folder.kind == "cuda" and any(cost.at_once > 1 for cost in costs)
        if shared and self.folder.machine.mps == "auto" and available():
            self.mps = Mps.start(self.folder.folder / "logs" / "mps", self.say)
        return self.mps

    def _on_signal(self, number: int) -> None:
        self._signal = number

    def _make_datasets(self) -> None:
        commands = [command for command in self.folder.preprocess_commands() if not command.done()]
        if commands:
            self._start(Job("datasets", commands))
        while self.running:
            self._poll()

    def _train(self, costs: Sequence[Cost], devices: int) -> None:
        groups = device_groups(devices, self.folder.devices_per_model)
        waiting = start_order(costs)
        unfinished = {cost.size.name for cost in waiting}
        ports = {cost.size.name: FIRST_PORT + number for number, cost in enumerate(waiting)}
        while waiting or self.running:
            while found := next_to_start(waiting, unfinished, groups):
                cost, group = found
                waiting.remove(cost)
                group.running.append(cost)
                commands = self.folder.model_commands(cost.size, ports[cost.size.name])
                self._start(Job(cost.size.name, [command for command in commands if not command.done()], cost, group))
            for job in self._poll():
                job.group.running.remove(job.cost)
                unfinished.discard(job.name)
                self.say(f"{job.name}: finished in {hours((time.monotonic() - job.started_at) / 3600)}: "
                         f"{self.folder.model_folder(job.cost.size)}")

    def _start(self, job: Job) -> None:
        """Start the job's first command, in a session of its own: Ctrl-C reaches it through this process only."""
        command = job.commands[0]
        command.log.parent.mkdir(parents=True, exist_ok=True)
        command.prepare()
        self.say(f"{job.name}: {command.title}")
        with open(command.log, "ab") as log:
            log.write(f"\n$ {' '.join(command.argv)}\n".encode())
            log.flush()
            job.process = subprocess.Popen(
                command.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=self._environment(job), start_new_session=True,
                pass_fds=(self.lock.fileno(), *self.mps.pass_fds),
                preexec_fn=death_signal(signal.SIGTERM))
        self.running.append(job)

    def _environment(self, job: Job) -> dict[str, str]:
        """Environment variables of a child: the GPUs it may use, or its number of CPU threads."""
        environment = {**os.environ, **self.mps.environment}
        if self.folder.kind == "cuda" and job.group is not None:
            visible = environment.get("CUDA_VISIBLE_DEVICES")
            names = visible.split(",") if visible else list(map(str, range(max(job.group.devices) + 1)))
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(names[number] for number in job.group.devices)
        elif self.folder.kind == "cpu" and job.cost is not None and job.cost.at_once > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // job.cost.at_once)))
        return environment

    def _poll(self) -> list[Job]:
        """Wait a moment and start the next command of each job whose command has ended; returns the complete jobs."""
        time.sleep(POLL_SECONDS)
        if self._signal:
            self.say(f"{signal_name(self._signal)}: waiting for {len(self.running)} to save")
            self._stop_children()
            raise Stopped(self._signal)
        complete = []
        for job in [job for job in self.running if job.process.poll() is not None]:
            self.running.remove(job)
            self._finish_command(job)
            if job.commands:
                self._start(job)
            else:
                complete.append(job)
        self._print_progress()
        return complete

    def _finish_command(self, job: Job) -> None:
        """Check that the job's first command did its work, and drop it.

        Raises:
            UserError: it did not.
        """
        command, status = job.commands[0], job.process.returncode
        if status == 0:
            command.finish()
            if command.done():
                job.commands.pop(0)
                return
        raise UserError(f"{job.name}, {command.title}: {command.program} {death_note(status)}: "
                        f"{last_line(command.log)} (its log: {command.log})")

    def _stop_children(self) -> None:
        """Send SIGTERM to every child and wait until all have saved and ended."""
        for job in self.running:
            job.process.terminate()
        for job in self.running:
            job.process.wait()

    def _print_progress(self) -> None:
        """Every `--report_seconds`, print one line for each training with a new report."""
        if time.monotonic() - self._printed_at < self.folder.machine.report_seconds:
            return
        self._printed_at = time.monotonic()
        for job in self.running:
            command = job.commands[0]
            record = last_record(command.metrics) if command.metrics else None
            if record and record != job.printed:
                job.printed = record
                self.say(f"{job.name}: {command.title}: {progress_line(record, command.total_steps)}")


def last_line(path: Path) -> str:
    """The error that the last command in a log printed, or else its last line."""
    _, command, text = _tail(path).rpartition("\n$ ")
    lines = [line.strip() for line in text.split("\n")[bool(command):] if line.strip(" =-")]
    return ([line for line in lines if line.startswith("error: ")] or lines or ["it printed nothing"])[-1]


def last_record(path: Path) -> dict[str, Any] | None:
    """The newest training report of a metrics file."""
    for line in reversed(_tail(path).split("\n")):
        try:
            record = parse_json(line, path)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("kind") == "train":
            return record
    return None


def progress_line(record: dict[str, Any], total_steps: int) -> str:
    """`step 1,200 of 5,000, loss 3.412, acc 0.421, 81,200 real tokens/s, 1.2 h left`"""
    parts = [f"step {record['step']:,} of {total_steps:,}", f"loss {record['loss']:.3f}"]
    if "acc" in record:
        parts.append(f"acc {record['acc']:.3f}")
    parts.append(f"{record['real_tokens_per_second']:,.0f} real tokens/s")
    return ", ".join([*parts, f"{hours(record['seconds_left'] / 3600)} left"])


def _tail(path: Path) -> str:
    """The last `TAIL_BYTES` of a file; "" where there is none."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", "replace")
