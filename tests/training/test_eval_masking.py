"""Held-out data: when it is evaluated, and with masks that do not depend on those of the training."""

import pytest

STILL = {"total_steps": 1, "save_checkpoint_steps": 1, "report_steps": 1, "learning_rate": 1e-12, "dev_fraction": 0.3}


def held_out(playground, name, **flags):
    playground.run(name, **STILL, **flags)
    return playground.figures(name, "eval")[-1]["loss"]


def test_runs_of_unlike_masking_are_measured_alike(shared_playground):
    plain = held_out(shared_playground, "plain")
    spans = {"span_masking": True, "mask_rate": 0.5}
    assert held_out(shared_playground, "measured", eval_masking="tokens", **spans) == pytest.approx(plain, rel=1e-6)
    assert held_out(shared_playground, "as-training", **spans) != pytest.approx(plain, rel=1e-6)


def test_the_end_is_evaluated_whatever_the_interval(shared_playground):
    shared_playground.run("five", **{**STILL, "total_steps": 5, "save_checkpoint_steps": 1}, eval_steps=2)
    assert [line["step"] for line in shared_playground.figures("five", "eval")] == [2, 4, 5]


def test_static_masks_are_refused(shared_playground):
    path = shared_playground.write_dataset("static.pt", dynamic_masking=False)
    assert "--eval_masking tokens needs" in shared_playground.fail(
        "refused", **STILL, dataset_path=path, eval_masking="tokens")


def test_another_mask_rate_is_another_run(shared_playground):
    shared_playground.run("rate", **STILL, mask_rate=0.4)
    message = "mask_rate was 0.4 and is now 0.15"
    assert message in shared_playground.fail("rate", **STILL)
