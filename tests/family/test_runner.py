"""Child processes: order, failure, signals, and what is left of a killed run. The commands here are small stand-ins."""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from uer.config import ModelConfig
from uer.errors import UserError
from uer.family.commands import Command
from uer.family.config import MachineConfig
from uer.family.costs import Cost
from uer.family.runner import Runner, Stopped, last_line, last_record, lock_folder, progress_line
from uer.family.sizes import Size

WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('whole'); print('written')"
# Saves what it has when it is asked to end, as pretrain.py does.
PATIENT = """
import pathlib, signal, sys, time
def save(number, frame):
    pathlib.Path(sys.argv[1]).with_suffix('.saved').write_text('state')
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1]).with_suffix('.started').write_text('')
time.sleep(60)
"""


@dataclass
class StandIn:
    """Makes <folder>/<size>.<number> by the given programs."""

    folder: Path
    programs: dict[str, list[str]]
    datasets: list[str] = field(default_factory=list)
    machine: MachineConfig = field(default_factory=lambda: MachineConfig(report_seconds=0.01))
    kind: str = "cpu"
    devices_per_model: int = 1

    def preprocess_commands(self):
        return [self.command("data", number, program) for number, program in enumerate(self.datasets)]

    def model_commands(self, size, port):
        return [self.command(size.name, number, program) for number, program in enumerate(self.programs[size.name])]

    def command(self, name, number, program):
        path = self.folder / f"{name}.{number}"
        return Command(f"step {number}", [sys.executable, "-c", program, str(path)], self.folder / f"{name}.log",
                    path.exists)

    def finished(self, size):
        return all(command.done() for command in self.model_commands(size, 0))

    def model_folder(self, size):
        return self.folder / size.name


def cost(name, hours=1.0, at_once=1, waits_for=""):
    return Cost(Size(name, "", ModelConfig()), 1, (1.0,), 1, 0.3, hours, at_once, waits_for=waits_for)


@pytest.fixture
def said():
    return []


def run(family, costs, said, devices=1):
    with lock_folder(family.folder, said.append) as lock:
        Runner(family, lock, said.append).run(costs, devices)


def test_runs_what_is_not_done_and_nothing_else(tmp_path, said):
    family = StandIn(tmp_path, {"a": [WRITE, WRITE], "b": [WRITE]}, [WRITE])
    (tmp_path / "a.0").write_text("from before")
    run(family, [cost("a"), cost("b", hours=2.0)], said)
    assert (tmp_path / "a.0").read_text() == "from before" and (tmp_path / "a.1").read_text() == "whole"
    started = [line for line in said if "step" in line]
    assert started == ["datasets: step 0", "b: step 0", "a: step 1"]  # the longest model first
    assert b"written" in (tmp_path / "a.log").read_bytes()
    again = []
    run(family, [cost("a"), cost("b")], again)
    assert again == []


def test_a_failing_child_is_one_line_that_names_its_log(tmp_path, said):
    family = StandIn(tmp_path, {"a": ["import sys; print('why it failed'); print(); sys.exit(2)"]})
    with pytest.raises(UserError, match=r"a, step 0: -c ended with status 2: why it failed \(its log: .*a\.log\)"):
        run(family, [cost("a")], said)
    family = StandIn(tmp_path, {"b": ["import os; os.kill(os.getpid(), 9)"]})
    with pytest.raises(UserError, match="was killed by SIGKILL"):
        run(family, [cost("b")], said)
    family = StandIn(tmp_path, {"c": ["pass"]})
    with pytest.raises(UserError, match="ended with status 0"):  # it said it was well but made nothing
        run(family, [cost("c")], said)


def test_a_failure_has_the_others_save(tmp_path, said):
    wait = f"while not pathlib.Path({str(tmp_path / 'a.started')!r}).exists(): time.sleep(0.01)"
    fail = f"import pathlib, time\n{wait}\n1/0"
    family = StandIn(tmp_path, {"a": [PATIENT], "b": [fail]})
    with pytest.raises(UserError, match=r"b, step 0.*ZeroDivisionError"):
        run(family, [cost("a", at_once=2), cost("b", at_once=2)], said)
    assert (tmp_path / "a.saved").exists()


def test_small_models_run_at_once_and_large_ones_wait(tmp_path, said):
    meet = """
import pathlib, sys, time
mine = pathlib.Path(sys.argv[1]); mine.with_suffix('.here').write_text('')
other = mine.with_name({'a.0': 'b', 'b.0': 'a'}[mine.name] + '.here')
while not other.exists(): time.sleep(0.01)
mine.write_text('whole')
"""
    family = StandIn(tmp_path, {"a": [meet], "b": [meet], "large": [WRITE]})
    run(family, [cost("a", 2.0, 2), cost("b", 2.0, 2), cost("large", 1.0)], said)
    small = [number for number, line in enumerate(said) if line.startswith(("a: finished", "b: finished"))]
    assert len(small) == 2 and said.index("large: step 0") > max(small)


def test_pupils_wait_for_their_teacher_and_others_do_not(tmp_path, said):
    after = "import pathlib, sys; path = pathlib.Path(sys.argv[1]); assert path.with_name('t.1').exists(); path.touch()"
    meanwhile = after.replace("assert", "assert not")
    teacher = "import pathlib, sys, time; path = pathlib.Path(sys.argv[1])\n" \
              "while not path.with_name('large.0').exists(): time.sleep(0.01)\npath.touch()"
    family = StandIn(tmp_path, {"a": [after], "b": [after], "t": [WRITE, teacher], "large": [meanwhile]})
    costs = [cost("a", 3.0, 4, "t"), cost("b", 2.0, 4, "t"), cost("t", 1.0, 4), cost("large", 1.0, 4)]
    run(family, costs, said)
    assert [line.split(":")[0] for line in said[:2]] == ["t", "large"]
    family.programs["c"] = [after]
    run(family, [*costs, cost("c", waits_for="t")], said)  # its teacher was finished by an earlier start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_has_children_save(tmp_path, said, number):
    before = signal.getsignal(number)  # what started the tests may ignore Ctrl-C: a shell does for background jobs
    family = StandIn(tmp_path, {"a": [PATIENT]})

    def send():
        while not (tmp_path / "a.started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(Stopped) as stopped:
        run(family, [cost("a")], said)
    thread.join()
    assert stopped.value.number == number and (tmp_path / "a.saved").exists()
    assert signal.getsignal(number) == before


@pytest.mark.skipif(sys.platform != "linux", reason="children get a signal when their parent dies on Linux only")
def test_children_of_a_killed_run_save_and_the_next_start_waits_for_them(tmp_path, said):
    family = StandIn(tmp_path, {"a": [PATIENT]})
    parent = multiprocessing.get_context("fork").Process(target=run, args=(family, [cost("a")], []))
    parent.start()
    while not (tmp_path / "a.started").exists():
        time.sleep(0.01)
    parent.kill()
    parent.join()
    with lock_folder(tmp_path, said.append):
        assert (tmp_path / "a.saved").exists()


def test_two_runs_in_one_folder_are_refused(tmp_path, said):
    with lock_folder(tmp_path, said.append), pytest.raises(UserError, match="another run is working there"):
        lock_folder(tmp_path, said.append, patience=0.0)


def test_progress_is_read_from_the_end_of_files(tmp_path):
    log, metrics = tmp_path / "a.log", tmp_path / "a.jsonl"
    log.write_text("first\n" + "x" * 10000 + "\nthe last\n\n")
    assert last_line(log) == "the last"
    assert last_line(tmp_path / "missing") == "it printed nothing"
    log.write_text("\n$ before\nerror: an old one\n\n$ python3 x.py\n")
    assert last_line(log) == "it printed nothing"
    log.write_text("$ python3 x.py\nerror: why\ntorchrun's table\n======\n")
    assert last_line(log) == "error: why"
    record = {"kind": "train", "step": 1200, "loss": 3.4123, "acc": 0.4212, "real_tokens_per_second": 81200.4,
              "seconds_left": 4320}
    metrics.write_text("\n".join([json.dumps({**record, "step": 1}), json.dumps(record),
                                  json.dumps({"kind": "eval", "step": 1200}), '{"kind": "train", "st']))
    assert last_record(metrics) == record
    assert progress_line(record, 5000) == "step 1,200 of 5,000, loss 3.412, acc 0.421, 81,200 real tokens/s, 1.2 h left"
    assert last_record(log) is None
