"""UER-py's eight schedules against its learning rates, and the ninth."""

import dataclasses
import json

import pytest

from uer.config import OptimConfig
from uer.errors import UserError
from uer.optim.schedules import SCHEDULES

OURS = {"trapezoidal"}


@pytest.mark.parametrize("name", sorted(SCHEDULES.keys() - OURS))
def test_equals_the_original(name, golden):
    record = json.loads((golden / "lr_schedules.json").read_text())
    config = OptimConfig(learning_rate=record["base_lr"], warmup=record["warmup"], lr_decay=record["lr_decay"])
    schedule = SCHEDULES[name](config, record["total_steps"])
    learning_rates = [schedule(step) for step in range(record["total_steps"])]
    assert learning_rates == pytest.approx(record["lr_used_at_step_1_to_20"][name], rel=1e-9, abs=1e-12)


def test_all_eight_are_there(golden):
    record = json.loads((golden / "lr_schedules.json").read_text())
    assert set(SCHEDULES) - OURS == set(record["lr_used_at_step_1_to_20"])


def test_ends_where_it_should():
    ends = {name: SCHEDULES[name](OptimConfig(learning_rate=1e-4), 1000)(1000) for name in SCHEDULES}
    assert ends["linear"] == ends["cosine"] == ends["trapezoidal"] == 0.0
    assert ends["polynomial"] == pytest.approx(1e-7)
    assert ends["tri_stage"] == pytest.approx(5e-6)
    assert ends["constant"] == ends["constant_with_warmup"] == 1e-4


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(UserError, match=r"--learning_rate 1e-08.*polynomial"):
        SCHEDULES["polynomial"](OptimConfig(learning_rate=1e-8), 10)
    for name in ("tri_stage", "trapezoidal"):
        with pytest.raises(UserError, match=rf"--warmup and --lr_decay.*{name}"):
            SCHEDULES[name](dataclasses.replace(OptimConfig(), warmup=0.6), 10)


def test_trapezoidal_rises_holds_and_falls():
    schedule = SCHEDULES["trapezoidal"](OptimConfig(learning_rate=2.0, warmup=0.1, lr_decay=0.2), 1000)
    assert [schedule(step) for step in (0, 50, 100, 500, 800)] == [0.0, 1.0, 2.0, 2.0, 2.0]
    assert schedule(850) == pytest.approx(1.0)  # a quarter of the decay: 1 - sqrt(1/4)
    assert schedule(1000) == 0.0
    falling = [schedule(step) for step in range(800, 1001)]
    assert falling == sorted(falling, reverse=True)
    assert SCHEDULES["trapezoidal"](OptimConfig(learning_rate=2.0, warmup=0.0, lr_decay=0.0), 10)(9) == 2.0
