"""CUDA MPS is started, used and stopped; the programs are stand-ins on PATH that write down what they are asked."""

import os
import signal
import subprocess
import sys
import time

import pytest

from uer.family import mps
from uer.family.config import MachineConfig
from uer.family.mps import Mps, available
from uer.family.runner import Runner, lock_folder

from .test_runner import WRITE, StandIn, cost

CONTROL = """#!/bin/sh
if [ "$1" = -d ]; then
    echo "start visible=$CUDA_VISIBLE_DEVICES pipes=$CUDA_MPS_PIPE_DIRECTORY logs=$CUDA_MPS_LOG_DIRECTORY" >> "$SAID"
    exit ${MPS_STATUS:-0}
fi
echo "$(cat) pipes=$CUDA_MPS_PIPE_DIRECTORY" >> "$SAID"
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder on PATH with both programs; returns a function that reads what the control program was asked."""
    folder, said = tmp_path / "bin", tmp_path / "said"
    folder.mkdir()
    for name, text in ((mps.CONTROL, CONTROL), ("nvidia-smi", '#!/bin/sh\nprintf "${MODES:-Default\\n}"\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("SAID", str(said))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv(mps.PIPE_VARIABLE, raising=False)
    return lambda: said.read_text().splitlines() if said.exists() else []


def test_it_is_available_where_the_program_is_and_the_gpus_are_shared(programs, monkeypatch):
    assert available()
    monkeypatch.setenv("MODES", "Default\\nExclusive_Process\\n")
    assert not available()
    monkeypatch.setenv(mps.PIPE_VARIABLE, "/run/mps")  # a daemon of the user's own
    assert available()
    monkeypatch.delenv(mps.PIPE_VARIABLE)
    monkeypatch.setenv("PATH", "/nowhere")
    assert not available()


def test_it_ends_with_its_last_client(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    said = []
    with Mps.start(tmp_path / "logs", said.append) as daemon:
        pipes = daemon.environment[mps.PIPE_VARIABLE]
        assert programs() == [f"start visible= pipes={pipes} logs={tmp_path}/logs"] and os.path.isdir(pipes)
    assert programs()[1:] == [f"quit pipes={pipes}"] and not os.path.exists(pipes) and not said


def test_it_outlives_a_killed_parent_until_the_children_have_saved(programs, tmp_path):
    """The parent starts the daemon and a child, and is killed; the daemon is told to quit when the child has ended."""
    program = f"""
import subprocess, sys, time
from pathlib import Path
from uer.family.mps import Mps
daemon = Mps.start(Path({str(tmp_path / "logs")!r}), print)
subprocess.Popen(["sh", "-c", "while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo saved >> {tmp_path}/said"],
                 pass_fds=daemon.pass_fds, stdout=subprocess.DEVNULL, start_new_session=True)
print("ready", flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"ready\n"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert len(programs()) == 1
    (tmp_path / "go").touch()
    end = time.monotonic() + 30
    while len(programs()) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert [line.split()[0] for line in programs()] == ["start", "saved", "quit"]


def test_where_it_fails_models_take_turns(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("MPS_STATUS", "1")
    said = []
    with Mps.start(tmp_path / "logs", said.append) as daemon:
        assert daemon.environment == {} and daemon.pass_fds == ()
    assert len(programs()) == 1 and "so models on one GPU take turns" in said[0]


@pytest.mark.parametrize("flag, at_once, started", [("auto", 2, True), ("off", 2, False), ("auto", 1, False)])
def test_the_runner_starts_it_for_models_that_share_a_gpu(programs, tmp_path, flag, at_once, started):
    write = "import os; print('pipes', os.environ.get('CUDA_MPS_PIPE_DIRECTORY')); " + WRITE
    family = StandIn(tmp_path, {"a": [write]}, machine=MachineConfig(mps=flag), kind="cuda")
    with lock_folder(tmp_path, print) as lock:
        Runner(family, lock, print).run([cost("a", at_once=at_once)], 1)
    assert [line.split()[0] for line in programs()] == ["start", "quit"] * started
    assert ("pipes None" in (tmp_path / "a.log").read_text()) != started
