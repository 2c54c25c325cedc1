"""The eight schedules against the original's figures."""

import dataclasses
import json

import pytest

from uer.config import OptimConfig
from uer.errors import UserError
from uer.optim.schedules import SCHEDULES


@pytest.mark.parametrize("name", SCHEDULES)
def test_equals_the_original(name, golden):
    record = json.loads((golden / "lr_schedules.json").read_text())
    config = OptimConfig(learning_rate=record["base_lr"], warmup=record["warmup"], lr_decay=record["lr_decay"])
    factor = SCHEDULES[name](config, record["total_steps"])
    rates = [record["base_lr"] * factor(step) for step in range(record["total_steps"])]
    assert rates == pytest.approx(record["lr_used_at_step_1_to_20"][name], rel=1e-9, abs=1e-12)


def test_all_eight_are_there(golden):
    assert set(SCHEDULES) == set(json.loads((golden / "lr_schedules.json").read_text())["lr_used_at_step_1_to_20"])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.013, 0.5])
@pytest.mark.parametrize("total", [1, 7, 10_000_000])
def test_is_a_pure_function_that_stays_within_bounds(name, warmup, total):
    config = OptimConfig(learning_rate=1e-4, warmup=warmup)
    factor = SCHEDULES[name](config, total)
    steps = sorted({0, 1, total // 100, total // 3, total // 2, total - 1, total, total + 5})
    forwards = [factor(step) for step in steps]
    assert forwards == [SCHEDULES[name](config, total)(step) for step in reversed(steps)][::-1]
    assert all(0.0 <= value <= 1.0 for value in forwards)


def test_ends_where_it_should():
    config = OptimConfig(learning_rate=1e-4)
    ends = {name: SCHEDULES[name](config, 1000)(1000) for name in SCHEDULES}
    assert ends["linear"] == ends["cosine"] == 0.0
    assert ends["polynomial"] == pytest.approx(1e-3)
    assert ends["tri_stage"] == pytest.approx(0.05)
    assert ends["constant"] == ends["constant_with_warmup"] == 1.0


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(UserError, match=r"--learning_rate 1e-08.*polynomial"):
        SCHEDULES["polynomial"](OptimConfig(learning_rate=1e-8), 10)
    with pytest.raises(UserError, match=r"--warmup and --lr_decay"):
        SCHEDULES["tri_stage"](dataclasses.replace(OptimConfig(), warmup=0.6), 10)
