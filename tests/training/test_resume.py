"""A run that is killed and started again ends as if it had never been killed."""

import dataclasses
import json
import os
import shutil
import signal
import zipfile

import pytest
import torch

from tests.training.conftest import assert_close_weights
from uer.checkpoint.settings import read_settings

STEPS = {"total_steps": 12, "save_checkpoint_steps": 4, "report_steps": 3}


@pytest.fixture(scope="module")
def finished_run(shared_playground):
    """The playground with a run `m` that has ended; tests only look at it."""
    shared_playground.run("m", **STEPS)
    return shared_playground


@pytest.fixture
def finished(finished_run, tmp_path, server):
    """A copy of that playground, which a test may change."""
    shutil.copytree(finished_run.folder, tmp_path / "copy")
    return dataclasses.replace(finished_run, folder=tmp_path / "copy")


def final_weights(playground, name, step=12):
    return (playground.folder / f"{name}-{step}").read_bytes()


# Every phase of a run that leaves something else behind, and the newest state that is there then (0: none).
PHASES = {
    "a report, before the first checkpoint": ({"call": "uer.training.report:Reporter.record"}, 0),
    "the first weights": ({"rename_to": "killed-3"}, 0),
    "weights": ({"rename_to": "killed-6"}, 3),
    "the settings of weights without a name": ({"rename_to": "killed-9.settings.json"}, 6),
    "between the weights and the state": ({"call": "uer.checkpoint.files:write", "path": "killed.state-12"}, 9),
    "an evaluation": ({"call": "uer.training.trainer:Trainer._evaluate", "count": 3}, None),
    "a state": ({"rename_to": "killed.state-21"}, 18),
    "a state, with its name but before older ones are removed":
        ({"call": "uer.checkpoint.state:StateFolder.prune", "count": 3}, 27)}


def test_killed_in_every_phase_leaves_no_trace(playground):
    """In place of SIGKILL at random moments: one in each phase, in one run that goes on after each."""
    playground.configure(layers_num=1)
    flags = {"total_steps": 30, "save_checkpoint_steps": 3, "report_steps": 2, "eval_steps": 4, "dev_fraction": 0.1}
    playground.run("whole", **flags)
    half_written = set()
    for phase, (kill, newest) in PHASES.items():
        job = playground.start("killed", kill=kill, **flags)
        assert job.wait() == 128 + signal.SIGKILL, f"{phase}: the run ended before\n{job.output}"
        states = [int(path.name.split("-")[-1]) for path in playground.folder.glob("killed.state-*[0-9]")]
        assert newest is None or max(states, default=0) == newest, phase
        half_written |= {phase} if list(playground.folder.glob("*.tmp")) else set()
    assert {"the first weights", "weights", "the settings of weights without a name", "a state"} <= half_written
    job = playground.run("killed", **flags)
    assert "resumed after step" in job.output
    assert final_weights(playground, "killed", 30) == final_weights(playground, "whole", 30)
    whole = {(line["kind"], line["step"]): line["loss"] for line in
             playground.figures("whole") + playground.figures("whole", "eval")}
    again = {(line["kind"], line["step"]): line["loss"] for line in
             playground.figures("killed") + playground.figures("killed", "eval")}
    assert again == whole
    assert not list(playground.folder.glob("*.tmp"))
    for step in range(3, 31, 3):
        settings = [read_settings(playground.folder / f"{name}-{step}") for name in ("killed", "whole")]
        assert settings[0] == settings[1] != {}
    assert len(list(playground.folder.glob("killed.state-*"))) == len(list(playground.folder.glob("whole.state-*")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("ranks", [1, 2])
def test_signals_save_first_and_have_a_status(playground, number, ranks):
    flags = {"total_steps": 100000, "save_checkpoint_steps": 50000, "report_steps": 5}
    flags.update({"world_size": 2, "gpu_ranks": (0, 1)} if ranks > 1 else {"threads": 2})
    job = playground.start("m", **flags)
    job.wait_for(lambda: "tokens/s" in job.output)
    os.kill(job.pid, number)
    assert job.wait() == 128 + number, job.output
    assert f"stopped by {number.name}" in job.output
    state = next(playground.folder.glob("m.state-*"))
    assert f"stopped by {number.name} after step {state.name.split('-')[-1]}" in job.output


def test_states_are_pruned_and_weights_kept(playground):
    playground.run("m", **{**STEPS, "save_checkpoint_steps": 3}, keep_checkpoints=2)
    names = sorted(path.name for path in playground.folder.glob("m*") if "log" not in path.name)
    assert names == [
        "m-12", "m-12.settings.json", "m-3", "m-3.settings.json", "m-6", "m-6.settings.json", "m-9",
        "m-9.settings.json", "m.jsonl", "m.state-12", "m.state-9"]


def test_a_finished_run_says_so_and_does_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.glob("m*-*")}
    job = finished.run("m", **STEPS)
    assert "finished already" in job.output and "tokens/s" not in job.output
    assert before == {path: path.stat().st_mtime_ns for path in finished.folder.glob("m*-*")}
    settings = (finished.folder / "m-12.settings.json").read_text()
    (finished.folder / "m-12.settings.json").unlink()
    finished.run("m", **STEPS)
    assert (finished.folder / "m-12.settings.json").read_text() == settings


def test_a_damaged_newest_state_falls_back(finished):
    newest = finished.folder / "m.state-12"
    with zipfile.ZipFile(newest) as archive:  # what fills the gaps between its records may be damaged without harm
        largest = max(archive.infolist(), key=lambda record: record.file_size)
        content = archive.read(largest)
    damaged = bytearray(newest.read_bytes())
    damaged[damaged.index(content, largest.header_offset) + len(content) // 2] ^= 16
    newest.write_bytes(damaged)
    whole = final_weights(finished, "m")
    job = finished.run("m", **STEPS)
    assert "m.state-12" in job.output and "falling back" in job.output and "resumed after step 8" in job.output
    assert final_weights(finished, "m") == whole


def test_all_states_damaged_is_an_error(finished):
    for path in finished.folder.glob("m.state-*"):
        path.write_bytes(path.read_bytes()[:-100])
    assert "no training state of this run can be read" in finished.fail("m", **STEPS)


@pytest.mark.parametrize("change, field", [
    ({"learning_rate": 2e-2}, "learning_rate"), ({"seed": 8}, "seed"), ({"total_steps": 24}, "total_steps"),
    ({"dropout": 0.2}, "dropout"), ({"batch_size": 8}, "batch_size x accumulation_steps x world_size"),
    ({"scheduler": "cosine"}, "scheduler"), ({"max_grad_norm": 1.0}, "max_grad_norm")])
def test_contradictions_are_refused_by_name(finished_run, change, field):
    line = finished_run.fail("m", **{**STEPS, **change})
    assert field in line and "--resume never" in line


def test_a_pooling_that_no_target_reads_may_change(finished_run):
    assert "finished already" in finished_run.run("m", **STEPS, pooling="mean").output


def test_resume_never_starts_anew_and_sets_old_states_aside(finished):
    job = finished.run("m", **STEPS, resume="never", seed=8)
    assert "renamed to *.old" in job.output and "resumed" not in job.output
    assert (finished.folder / "m.state-12.old").exists()


def test_resume_from_a_path(finished_run):
    job = finished_run.run("other", **STEPS, resume=finished_run.folder / "m.state-8")
    assert "resumed after step 8" in job.output
    assert final_weights(finished_run, "other") == final_weights(finished_run, "m")
    assert "No such file" in finished_run.fail("third", **STEPS, resume=finished_run.folder / "absent")


def test_a_state_is_plain_tensors_and_json(finished_run):
    state = torch.load(finished_run.folder / "m.state-12", weights_only=True)
    assert state["step"] == 12
    assert json.loads(state["settings"])["learning_rate"] == 1e-2
    assert read_settings(finished_run.folder / "m-12")["settings"] == json.loads(state["settings"])
    assert set(finished_run.weights("m-12")) == set(state["model"])
    assert all(set(moments) == {"exp_avg", "exp_avg_sq"} for moments in state["optimizer"].values())


def test_going_on_with_other_ranks(playground):
    """1 rank -> 2 -> 1 with micro-batches -> 2 that share the parameters -> 1; each ends where the first one ends."""
    playground.configure(layers_num=1)
    flags = {"total_steps": 5, "keep_checkpoints": 5, "report_steps": 1, "dropout": 0.0}
    two = {"batch_size": 2, "world_size": 2, "gpu_ranks": (0, 1)}
    playground.run("ranks-0", **flags, save_checkpoint_steps=1, batch_size=4)
    layouts = [two, {"batch_size": 2, "accumulation_steps": 2}, {**two, "sharding": "fsdp"}, {"batch_size": 4}]
    for number, layout in enumerate(layouts, start=1):
        state = playground.folder / f"ranks-{number - 1}.state-{number}"
        job = playground.run(f"ranks-{number}", **flags, **layout, save_checkpoint_steps=number + 1, resume=state)
        assert f"resumed after step {number}" in job.output
        assert_close_weights(playground.weights(f"ranks-{number}-5"), playground.weights("ranks-0-5"))
