"""A run that is killed and started again ends as if it had never been killed."""

import json
import os
import random
import signal
import time
import zipfile

import pytest
import torch

from uer.training import checkpoint

STEPS = {"total_steps": 12, "save_checkpoint_steps": 4, "report_steps": 3}


def final_weights(playground, name, step=12):
    return (playground.folder / f"{name}-{step}").read_bytes()


def wait_for(condition, seconds=30, pause=0.002):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(pause)


def test_twenty_kills_leave_no_trace(playground):
    flags = {"total_steps": 300, "save_checkpoint_steps": 5, "report_steps": 3, "eval_steps": 4, "dev_fraction": 0.1}
    playground.run("whole", **flags)
    generator, unfinished = random.Random(11), 0
    for number in range(20):
        lines = generator.randrange(6, 20)  # the plan has 5; then come reports, evaluations and checkpoints
        job = playground.start("killed", **flags)
        wait_for(lambda job=job, lines=lines: job.output.count("\n") >= lines)
        if number % 2:
            wait_for(lambda: any(path.endswith(".tmp") for path in os.listdir(playground.folder)), pause=0.0)
        else:
            time.sleep(generator.uniform(0.0, 0.02))
        os.killpg(job.pid, signal.SIGKILL)
        assert job.wait() == 128 + signal.SIGKILL, "the run ended before it could be killed: make it longer"
        unfinished += bool(list(playground.folder.glob("*.tmp")))
    assert unfinished, "no kill came while a checkpoint was being written"
    job = playground.run("killed", **flags)
    assert "resumed after step" in job.output
    assert final_weights(playground, "killed", 300) == final_weights(playground, "whole", 300)
    whole = {(line["kind"], line["step"]): line["loss"] for line in
             playground.figures("whole") + playground.figures("whole", "eval")}
    again = {(line["kind"], line["step"]): line["loss"] for line in
             playground.figures("killed") + playground.figures("killed", "eval")}
    assert again == whole
    assert not list(playground.folder.glob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("ranks", [1, 2])
def test_signals_save_first_and_have_a_status(playground, number, ranks):
    flags = {"total_steps": 100000, "save_checkpoint_steps": 50000, "report_steps": 5}
    if ranks > 1:
        flags.update(world_size=2, gpu_ranks=(0, 1))
    job = playground.start("m", **flags)
    wait_for(lambda: "tokens/s" in job.output)
    os.kill(job.pid, number)
    assert job.wait(20) == 128 + number, job.output
    assert f"stopped by {number.name}" in job.output
    state = next(playground.folder.glob("m.state-*"))
    assert f"stopped by {number.name} after step {state.name.split('-')[-1]}" in job.output


def test_states_are_pruned_and_weights_kept(playground):
    playground.run("m", **{**STEPS, "save_checkpoint_steps": 3}, keep_checkpoints=2)
    names = sorted(path.name for path in playground.folder.glob("m*") if "log" not in path.name)
    assert names == ["m-12", "m-3", "m-6", "m-9", "m.jsonl", "m.state-12", "m.state-9"]


def test_a_finished_run_says_so_and_does_nothing(playground):
    playground.run("m", **STEPS)
    before = {path: path.stat().st_mtime_ns for path in playground.folder.glob("m*-*")}
    job = playground.run("m", **STEPS)
    assert "finished already" in job.output and "tokens/s" not in job.output
    assert before == {path: path.stat().st_mtime_ns for path in playground.folder.glob("m*-*")}


def test_a_damaged_newest_state_falls_back(playground):
    playground.run("whole", **STEPS)
    playground.run("m", **STEPS)
    newest = playground.folder / "m.state-12"
    with zipfile.ZipFile(newest) as archive:  # what fills the gaps between its records may be damaged without harm
        largest = max(archive.infolist(), key=lambda record: record.file_size)
        content = archive.read(largest)
    damaged = bytearray(newest.read_bytes())
    damaged[damaged.index(content, largest.header_offset) + len(content) // 2] ^= 16
    newest.write_bytes(damaged)
    job = playground.run("m", **STEPS)
    assert "m.state-12" in job.output and "falling back" in job.output and "resumed after step 8" in job.output
    assert final_weights(playground, "m") == final_weights(playground, "whole")


def test_all_states_damaged_is_an_error(playground):
    playground.run("m", **STEPS)
    for path in playground.folder.glob("m.state-*"):
        path.write_bytes(path.read_bytes()[:-100])
    assert "no training state of this run can be read" in playground.fail("m", **STEPS)


@pytest.mark.parametrize("change, field", [
    ({"learning_rate": 2e-2}, "learning_rate"), ({"seed": 8}, "seed"), ({"total_steps": 24}, "total_steps"),
    ({"dropout": 0.2}, "dropout"), ({"batch_size": 8}, "batch_size x accumulation_steps x world_size"),
    ({"scheduler": "cosine"}, "scheduler"), ({"max_grad_norm": 1.0}, "max_grad_norm")])
def test_contradictions_are_refused_by_name(playground, change, field):
    playground.run("m", **STEPS)
    line = playground.fail("m", **{**STEPS, **change})
    assert field in line and "--resume never" in line


def test_resume_never_starts_anew_and_sets_old_states_aside(playground):
    playground.run("m", **STEPS)
    job = playground.run("m", **STEPS, resume="never", seed=8)
    assert "renamed to *.old" in job.output and "resumed" not in job.output
    assert (playground.folder / "m.state-12.old").exists()


def test_resume_from_a_path(playground):
    playground.run("whole", **{**STEPS, "save_checkpoint_steps": 6})
    job = playground.run("other", **STEPS, resume=playground.folder / "whole.state-6")
    assert "resumed after step 6" in job.output
    assert final_weights(playground, "other") == final_weights(playground, "whole")
    assert "No such file" in playground.fail("third", **STEPS, resume=playground.folder / "absent")


def test_a_state_is_plain_tensors_and_json(playground):
    playground.run("m", **STEPS)
    state = torch.load(playground.folder / "m.state-12", weights_only=True)
    assert state["step"] == 12
    assert json.loads(state["settings"])["learning_rate"] == 1e-2
    weights = checkpoint.load_weights(playground.folder / "m-12")
    assert set(weights) == set(state["model"])
    assert all(set(moments) == {"exp_avg", "exp_avg_sq"} for moments in state["optimizer"].values())


@pytest.mark.parametrize("before, after", [
    ({"batch_size": 4}, {"batch_size": 2, "world_size": 2, "gpu_ranks": (0, 1)}),
    ({"batch_size": 2, "world_size": 2, "gpu_ranks": (0, 1)}, {"batch_size": 2, "accumulation_steps": 2}),
    ({"batch_size": 2, "world_size": 2, "gpu_ranks": (0, 1), "sharding": "fsdp"}, {"batch_size": 4}),
    ({"batch_size": 4}, {"batch_size": 2, "world_size": 2, "gpu_ranks": (0, 1), "sharding": "fsdp"})])
def test_going_on_with_other_ranks(playground, before, after):
    flags = {**STEPS, "dropout": 0.0}
    playground.run("whole", **flags, batch_size=4)
    playground.run("first", **flags, **before)
    playground.run("second", **flags, **after, resume=playground.folder / "first.state-8")
    weights = [checkpoint.load_weights(playground.folder / f"{name}-12") for name in ("whole", "second")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=2e-5)
