"""A decay phase from a training state of a run at its peak learning rate."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from uer.checkpoint import files as checkpoint
from uer.checkpoint.settings import read_settings
from uer.config import OptimConfig, TrainConfig
from uer.errors import UserError
from uer.optim.schedules import SCHEDULES
from uer.training.decay import Start, decay_schedule

RUN = {"scheduler": "constant", "total_steps": 20, "save_checkpoint_steps": 5, "report_steps": 5,
       "keep_checkpoints": 9}


@pytest.fixture(scope="module")
def constant(shared_playground):
    """The playground with a run `m` of 20 updates at the peak."""
    shared_playground.run("m", **RUN)
    return shared_playground


@pytest.fixture(scope="module")
def decayed(constant):
    """The output of its decay from update 10, `decayed`; `m`'s own files are as before."""
    before = contents(constant.folder)
    output = constant.run("decayed", **decay(constant)).output
    assert contents(constant.folder) == before
    return output


def decay(playground, **flags):
    """The flags of the run, with those of its decay."""
    return {**RUN, "decay_from": playground.folder / "m.state-10", "decay_steps": 10, **flags}


def contents(folder, pattern="m[-.]*"):
    return {path.name: path.read_bytes() for path in folder.glob(pattern) if "log" not in path.name}


def test_a_decay_is_the_end_of_a_run_that_was_meant_to_end_there(constant, decayed):
    """Bit for bit, moments and data included."""
    assert "resumed after step 10" in decayed and "at its peak until step 10 and falls to 0 at step 20" in decayed
    constant.run("meant", **{**RUN, "scheduler": "trapezoidal", "warmup": 0, "lr_decay": 0.5})
    for step in (15, 20):
        assert (constant.folder / f"decayed-{step}").read_bytes() == (constant.folder / f"meant-{step}").read_bytes()
        assert read_settings(constant.folder / f"decayed-{step}") == read_settings(constant.folder / f"meant-{step}")
    states = [checkpoint.read(constant.folder / f"{name}.state-20") for name in ("decayed", "meant")]
    for name, moments in states[0]["optimizer"].items():
        assert all(torch.equal(value, states[1]["optimizer"][name][key]) for key, value in moments.items())
    reports = [[(line["step"], line["loss"], line["learning_rate"]) for line in constant.figures(name)]
               for name in ("decayed", "meant")]
    assert reports[0] == reports[1][2:]
    assert (constant.folder / "decayed-20").read_bytes() != (constant.folder / "m-20").read_bytes()


def test_the_run_goes_on_after_a_decay(constant, decayed, playground):
    shutil.copy(constant.folder / "m.state-10", playground.folder)  # as if it had been stopped then
    assert "resumed after step 10" in playground.run("m", **RUN).output
    assert (playground.folder / "m-20").read_bytes() == (constant.folder / "m-20").read_bytes()


def test_killed_it_goes_on_without_the_state_that_it_came_from(constant, decayed, playground):
    state = playground.folder / "m.state-10"
    shutil.copy(constant.folder / "m.state-10", state)
    flags = decay(playground, save_checkpoint_steps=2)
    job = playground.start("killed", kill={"rename_to": "killed.state-16"}, **flags)
    assert job.wait() == 128 + signal.SIGKILL, job.output
    state.unlink()  # the run has gone on and keeps the newest only
    other = {**flags, "decay_from": playground.folder / "m.state-12"}
    assert "belongs to a decay from step 10, not 12" in playground.fail("killed", **other)
    assert "belongs to a run that decays in 10 steps, not 6" in playground.fail("killed", **{**flags, "decay_steps": 6})
    again = playground.run("killed", **flags)
    assert "resumed after step 14" in again.output
    assert (playground.folder / "killed-20").read_bytes() == (constant.folder / "decayed-20").read_bytes()
    assert "finished already" in playground.run("killed", **flags).output


def test_two_ranks_decay_together(constant):
    constant.run("one", **decay(constant, batch_size=2, accumulation_steps=2))
    constant.run("two", **decay(constant, batch_size=2, world_size=2, gpu_ranks=(0, 1)))
    assert constant.losses("two") == pytest.approx(constant.losses("one"), abs=2e-5)


def test_what_cannot_be_decayed_is_one_line(constant):
    for flags, words in (
            (decay(constant, learning_rate=5e-3), ("learning_rate was 0.01 and is now 0.005. A decay has",)),
            (decay(constant, decay_steps=None), ("--decay_from and --decay_steps go together",)),
            (decay(constant, resume="m.state-5"), ("--decay_from excludes --resume PATH",)),
            (decay(constant, decay_from=constant.folder / "m-10"), ("weights without the optimizer's moments",
                                                                    "m.state-10 (--keep_checkpoints")),
            (decay(constant, decay_from=constant.folder / "m.state-7"), ("m.state-7", "No such file"))):
        line = constant.fail("refused", **flags)
        assert all(word in line for word in words), line
    assert "m.state-10 is read by this command (--decay_from)" in constant.fail("m", **decay(constant))


def state(step=30000, **settings):
    saved = {"learning_rate": 1e-3, "scheduler": "trapezoidal", "warmup": 0.02, "lr_decay": 0.2, "total_steps": 100000,
             **settings}
    return Start({"settings": json.dumps(saved), "step": step}, Path("m.state-30000"), resumed=False)


def rates(schedule, steps):
    values = dict(schedule)
    total = values.pop("total_steps")
    learning_rate = SCHEDULES[values["scheduler"]](replace(OptimConfig(learning_rate=1e-3), **values), total)
    return [learning_rate(step) for step in steps]


@pytest.mark.parametrize("scheduler", ["constant", "constant_with_warmup", "trapezoidal"])
def test_the_learning_rate_falls_from_the_state_on(scheduler):
    schedule = decay_schedule(state(scheduler=scheduler), 3000)
    assert (schedule["total_steps"], schedule["scheduler"]) == (33000, "trapezoidal")
    found = rates(schedule, (0, 1000, 2000, 29999, 30000, 30750, 33000))
    warming = 1e-3 if scheduler == "constant" else 0.5e-3
    assert found == pytest.approx([0 if scheduler != "constant" else 1e-3, warming, 1e-3, 1e-3, 1e-3, 0.5e-3, 0],
                                  abs=1e-10)


def test_a_decay_that_goes_on_came_from_the_named_state():
    begun = replace(state(32000, total_steps=33000, lr_decay=1 / 11), resumed=True)
    for named in (None, 30000):
        assert decay_schedule(replace(begun, named=named), 3000)["total_steps"] == 33000
    with pytest.raises(UserError, match="belongs to a decay from step 30000, not 31000"):
        decay_schedule(replace(begun, named=31000), 3000)


@pytest.mark.parametrize(("step", "scheduler", "there"), [
    (1000, "trapezoidal", "0.0005"), (95000, "trapezoidal", "0.000133975"), (30000, "linear", "0.000714286")])
def test_a_state_beside_the_peak_is_refused(step, scheduler, there):
    with pytest.raises(UserError, match=f"the learning rate is {there} there and not at its peak of 0.001"):
        decay_schedule(state(step, scheduler=scheduler), 3000)


def test_the_end_of_the_warmup_is_a_peak_already():
    schedule = decay_schedule(state(2000), 1000)
    assert rates(schedule, (1000, 2000, 3000)) == pytest.approx([0.5e-3, 1e-3, 0.0], abs=1e-9)


def test_a_state_without_settings_is_damaged():
    with pytest.raises(UserError, match="its settings do not say the learning rate"):
        decay_schedule(Start({"settings": "{}", "step": 1}, Path("x"), resumed=False), 3)
    assert TrainConfig(output_model_path="x", decay_steps=-1).problems()
