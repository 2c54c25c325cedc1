"""Runs what is not done yet, as child processes that save and leave when this process is stopped or dies.

One thread, no pipes: a child writes straight to its log, so a log is whole even when this process is killed. A lock on
the output folder is inherited by the children, so a second start waits until those of a killed one have saved.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from uer.errors import UserError
from uer.family.costs import Cost
from uer.family.lanes import Lane, Lanes, first_ready, start_order
from uer.family.nodes import Launch, read_launch
from uer.family.work import FIRST_PORT, Step, Workshop
from uer.json_files import parse_json
from uer.text import hours

POLL_SECONDS = 0.05
LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 300.0
TAIL_BYTES = 8192
PR_SET_PDEATHSIG = 1


class Stopped(Exception):
    """A signal asked for an end; children have saved. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def locked(folder: Path, say: Callable[[str], None], patience: float = PATIENCE_SECONDS,
           node: int = 0) -> Iterator[int]:
    """Hold the folder's lock, each machine its own; yields the descriptor that children inherit.

    Raises:
        UserError: another run still works there after `patience` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / (f".lock-node{node}" if node else ".lock"), "w") as file:
        end, told = time.monotonic() + patience, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise UserError(f"--output_dir {folder}: another run is at work there") from None
                if not told:
                    say(f"waiting for an earlier run in {folder} to save and leave")
                told = True
                time.sleep(0.2)
        yield file.fileno()


@dataclass
class Chain:
    """The steps of one model (or of the datasets), done one after another.

    Attributes:
        name: the model's.
        steps: what is left to do.
        cost: of a model; None for datasets.
        lane: the devices it runs on, while it runs.
        child: the process of the first step, while it runs.
        begun: when the chain started.
        told: the report that was last shown.
    """

    name: str
    steps: list[Step]
    cost: Cost | None = None
    lane: Lane | None = None
    child: subprocess.Popen | None = None
    begun: float = field(default_factory=time.monotonic)
    told: dict[str, Any] | None = None


class Runner:
    """Works through chains.

    Args:
        workshop: where and what.
        lock: the descriptor that children inherit.
        say: prints a line.
    """

    def __init__(self, workshop: Workshop, lock: int, say: Callable[[str], None]) -> None:
        self.workshop = workshop
        self.lock = lock
        self.say = say
        self.running: list[Chain] = []
        self._signal = 0
        self._passed_on = False
        self._told = time.monotonic()

    def run(self, costs: Sequence[Cost], devices: int) -> None:
        """Make what is not there yet.

        Raises:
            UserError: a command failed; the line names its log.
            Stopped: SIGTERM or Ctrl-C came, and the children have saved.
        """
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._work([cost for cost in costs if not self.workshop.finished(cost.size)], devices)
        except BaseException:
            self._end_all()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _work(self, unfinished: Sequence[Cost], devices: int) -> None:
        if unfinished:
            self._preprocess()
        self._train(unfinished, devices)

    def _note(self, number: int, frame: object) -> None:
        self._signal = number

    def _preprocess(self) -> None:
        steps = [step for step in self.workshop.preprocess_steps() if not step.done()]
        if steps:
            self._start(Chain("datasets", steps))
        while self.running:
            self._wait()

    def _train(self, costs: Sequence[Cost], devices: int) -> None:
        lanes = Lanes(devices, self.workshop.per_model)
        waiting = [self._chain(cost, number) for number, cost in enumerate(start_order(costs))]
        unfinished = {chain.name for chain in waiting}
        while waiting or self.running:
            while (number := first_ready([chain.cost for chain in waiting], unfinished)) is not None and (
                    lane := lanes.take(waiting[number].cost.share)) is not None:
                chain = waiting.pop(number)
                chain.lane, chain.begun = lane, time.monotonic()
                self._start(chain)
            for chain in self._wait():
                lanes.give_back(chain.lane, chain.cost.share)
                unfinished.discard(chain.name)
                self.say(f"{chain.name}: finished in {hours((time.monotonic() - chain.begun) / 3600)}: "
                         f"{self.workshop.model_folder(chain.cost.size)}")

    def _chain(self, cost: Cost, number: int) -> Chain:
        steps = self.workshop.model_steps(cost.size, FIRST_PORT + number)
        return Chain(cost.size.name, [step for step in steps if not step.done()], cost)

    def _start(self, chain: Chain) -> None:
        """Start the chain's first step."""
        step = chain.steps[0]
        step.log.parent.mkdir(parents=True, exist_ok=True)
        step.prepare()
        self.say(f"{chain.name}: {step.title}")
        with open(step.log, "ab") as log:
            log.write(f"\n$ {' '.join(step.argv)}\n".encode())
            log.flush()
            chain.child = start_child(step.argv, log, self._environment(chain), self.lock)
        self.running.append(chain)

    def _environment(self, chain: Chain) -> dict[str, str]:
        environment = dict(os.environ)
        if self.workshop.kind == "cuda" and chain.lane is not None and not self.workshop.torchrun:
            visible = environment.get("CUDA_VISIBLE_DEVICES")
            names = visible.split(",") if visible else list(map(str, range(max(chain.lane.devices) + 1)))
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(names[number] for number in chain.lane.devices)
        elif self.workshop.kind == "cpu" and chain.cost is not None and chain.cost.at_once > 1:
            cores = os.cpu_count() or 1
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // chain.cost.at_once)))
        return environment

    def _wait(self) -> list[Chain]:
        """Let some time pass, then look after the children; returns the chains that are through."""
        time.sleep(POLL_SECONDS)
        if self._signal and not self._passed_on:
            self._passed_on = True
            self.say(f"{signal.Signals(self._signal).name}: waiting for {len(self.running)} to save")
            self._pass_on(signal.SIGTERM)
        through = []
        for chain in list(self.running):
            status = chain.child.poll()
            if status is None:
                continue
            self.running.remove(chain)
            if self._signal:
                continue
            self._succeed(chain, status)
            if chain.steps:
                self._start(chain)
            else:
                through.append(chain)
        if self._signal and not self.running:
            raise Stopped(self._signal)
        self._tell()
        return through

    def _succeed(self, chain: Chain, status: int) -> None:
        step = chain.steps[0]
        if status == 0:
            step.finish()
            if step.done():
                chain.steps.pop(0)
                return
        reason = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"left with status {status}"
        raise UserError(f"{chain.name}, {step.title}: {step.program} {reason}: {last_line(step.log)} "
                        f"(its log: {step.log})")

    def _pass_on(self, number: int) -> None:
        for chain in self.running:
            if chain.child is not None and chain.child.poll() is None:
                chain.child.send_signal(number)

    def _end_all(self) -> None:
        """Have every child save and leave."""
        self._pass_on(signal.SIGTERM)
        for chain in self.running:
            if chain.child is not None:
                chain.child.wait()

    def _tell(self) -> None:
        """A line for every training that is under way, now and then."""
        if time.monotonic() - self._told < self.workshop.machine.report_seconds:
            return
        self._told = time.monotonic()
        for chain in self.running:
            step = chain.steps[0]
            record = last_record(step.metrics) if step.metrics else None
            if record and record != chain.told:
                chain.told = record
                self.say(f"{chain.name}: {step.title}: {progress_line(record, step.total_steps)}")


class Follower(Runner):
    """Joins the trainings that node 0 starts on the other machines."""

    def _work(self, unfinished: Sequence[Cost], devices: int) -> None:
        folder = self.workshop.folder
        before = read_launch(folder)
        seen = before.id if before and not before.training else ""  # how an earlier start ended
        self.say(f"node {self.workshop.torchrun.node}: waiting for node 0")
        while any(not self.workshop.finished(cost.size) for cost in unfinished):
            launch = read_launch(folder)
            if launch and launch.id != seen:
                seen = launch.id
                self._leave_all()
                if not launch.training:
                    raise UserError(f"node 0 has ended: {launch.reason}")
                self._join(launch, unfinished)
            end = time.monotonic() + LOOK_SECONDS
            while time.monotonic() < end:
                self._wait()

    def _join(self, launch: Launch, costs: Sequence[Cost]) -> None:
        """Start what node 0 has started."""
        identified = replace(self.workshop, launch_id=launch.id.removesuffix(f"-{launch.training}"))
        for cost in costs:
            for step in identified.model_steps(cost.size):
                if step.training == launch.training and step.flags == launch.flags:
                    if not step.done():  # else the message is an old one
                        self._start(Chain(cost.size.name, [step], cost))
                    return
        raise UserError(f"node 0 trains {launch.training} with other flags than this command would, or not at all: "
                        "give the same command on every machine, with the same paths")

    def _leave_all(self) -> None:
        """End what waits for a node 0 that has gone on."""
        self._end_all()
        self.running.clear()

    def _succeed(self, chain: Chain, status: int) -> None:
        """Node 0 decides what a failure means."""
        if status:
            self.say(f"{chain.name}: {chain.steps[0].title} left with status {status}: {last_line(chain.steps[0].log)} "
                     f"(its log: {chain.steps[0].log}); waiting for node 0")
        chain.steps.clear()


def start_child(argv: Sequence[str], log: IO[bytes], environment: dict[str, str], lock: int) -> subprocess.Popen:
    """A process in a session of its own (Ctrl-C reaches it through us, once) that gets SIGTERM when we die."""
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                            start_new_session=True, pass_fds=(lock,),
                            preexec_fn=_follow_parent if sys.platform == "linux" else None)


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _follow_parent() -> None:
    """Runs in the child before its program: a single thread forks here, so this is safe."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def last_line(path: Path) -> str:
    """What a log's last command said at its end: its error, which torchrun's own lines may follow, or its last line."""
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
    """`step 1,200 of 5,000, loss 3.412, acc 0.421, 81,200 tokens/s, 1.2 h left`"""
    parts = [f"step {record['step']:,} of {total_steps:,}", f"loss {record['loss']:.3f}"]
    if "acc" in record:
        parts.append(f"acc {record['acc']:.3f}")
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    return ", ".join([*parts, f"{hours(record['seconds_left'] / 3600)} left"])


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", "replace")
