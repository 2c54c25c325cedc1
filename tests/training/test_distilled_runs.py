"""pretrain.py with a teacher: resuming, several processes, and what is refused."""

import json
import os
import signal
import time

import pytest
import torch

from uer.training import checkpoint

STEPS = {"total_steps": 12, "save_checkpoint_steps": 4, "report_steps": 3}


@pytest.fixture
def school(playground):
    """A playground with a teacher, larger than the student and trained for a few steps."""
    config = json.loads((playground.folder / "config.json").read_text())
    (playground.folder / "teacher.json").write_text(json.dumps(
        {**config, "emb_size": 24, "hidden_size": 24, "heads_num": 3, "layers_num": 3, "target": ["mlm", "sp"]}))
    playground.run("teacher", **STEPS, config_path=playground.folder / "teacher.json", target="mlm")
    playground.taught = {**STEPS, "teacher_model_path": playground.folder / "teacher-12",
                         "teacher_config_path": playground.folder / "teacher.json"}
    return playground


def test_what_is_said_and_what_is_saved(school):
    job = school.run("m", **school.taught, soft_alpha=0.25, soft_temperature=2, dev_fraction=0.1)
    line = next(line for line in job.output.splitlines() if "teacher: " in line)
    assert "parameters" in line and "soft_alpha 0.25, soft_temperature 2; " in line and "MFLOP a token" in line
    school.run("plain", **STEPS)
    names = [set(checkpoint.load_weights(school.folder / f"{name}-12")) for name in ("m", "plain")]
    assert names[0] == names[1]
    sizes = [(school.folder / f"{name}.state-12").stat().st_size for name in ("m", "plain")]
    assert abs(sizes[0] - sizes[1]) < 2048
    for figures in (*school.figures("m"), *school.figures("m", "eval")):
        assert figures["distillation loss"] > 0 and figures["acc"] >= 0
        assert abs(figures["loss"] - figures["distillation loss"]) > 1e-3  # the labels' loss, not the mix
    assert "| distillation loss: " in job.output


def test_without_weight_the_run_is_the_plain_one(school):
    school.run("m", **school.taught, soft_alpha=0)
    school.run("plain", **STEPS)
    assert (school.folder / "m-12").read_bytes() == (school.folder / "plain-12").read_bytes()
    assert school.losses("m") == school.losses("plain")


def test_a_killed_run_goes_on_bit_for_bit_and_with_its_own_teacher_only(school):
    flags = {**school.taught, "total_steps": 80, "soft_temperature": 2}
    school.run("whole", **flags)
    job = school.start("killed", **flags)
    until = time.monotonic() + 30
    while not list(school.folder.glob("killed.state-*[0-9]")):
        assert time.monotonic() < until
        time.sleep(0.002)
    os.killpg(job.pid, signal.SIGKILL)
    assert job.wait() == 128 + signal.SIGKILL
    for change, field in (({"soft_alpha": 0.75}, "soft_alpha was 0.5"), ({"soft_temperature": 3}, "soft_temperature"),
                          ({"teacher_model_path": school.folder / "teacher-8"}, "teacher was "),
                          (dict.fromkeys(("teacher_model_path", "teacher_config_path", "soft_temperature")),
                           "is now null")):
        assert field in school.fail("killed", **{**flags, **change})
    assert "resumed after step" in school.run("killed", **flags).output
    assert (school.folder / "killed-80").read_bytes() == (school.folder / "whole-80").read_bytes()


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_ranks_equal_one(school, sharding):
    flags = {**school.taught, "dropout": 0.0, "soft_alpha": 0.7}
    school.run("one", **flags, batch_size=8)
    school.run("two", **flags, batch_size=4, world_size=2, gpu_ranks=(0, 1), sharding=sharding)
    assert school.losses("two") == pytest.approx(school.losses("one"), abs=2e-5)
    taught = [[line["distillation loss"] for line in school.figures(name)] for name in ("two", "one")]
    assert taught[0] == pytest.approx(taught[1], abs=2e-5)
    ours, theirs = (checkpoint.load_weights(school.folder / f"{name}-12") for name in ("two", "one"))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=2e-5)


def test_a_teacher_that_does_not_fit_is_refused_by_name(school):
    folder, weights = school.folder, checkpoint.load_weights(school.folder / "teacher-12")

    def refused(changes=None, state=None):
        if changes is not None:
            content = {**json.loads((folder / "teacher.json").read_text()), **changes}
            (folder / "other.json").write_text(json.dumps(content))
        if state is not None:
            checkpoint.save_weights(state, folder / "other.bin")
        names = "teacher.json" if changes is None else "other.json", "teacher-12" if state is None else "other.bin"
        return school.fail("m", **{**school.taught, "teacher_config_path": folder / names[0],
                                   "teacher_model_path": folder / names[1]})

    assert "max_seq_length is 8, but the dataset's rows have 16 tokens" in refused({"max_seq_length": 8})
    line = refused({"layers_num": 4})
    assert "missing or of another shape: encoder.transformer.3.self_attn" in line and "--teacher_config_path" in line
    assert "embedding.pos.embedding.weight ([32, 24] in the file, [64, 24] by its" in refused({"max_seq_length": 64})
    assert "--teacher_config_path" in refused({"heads_num": 5}) and "not divisible" in refused({"heads_num": 5})
    larger = {name: torch.cat([value, value[:3]]) if len(value) == 45 else value for name, value in weights.items()}
    assert "a vocabulary of 48 entries, but this run's has 45" in refused(state=larger)
    extra = {**weights, "target.sp.linear_1.weight": torch.zeros(24, 24)}
    checkpoint.save_weights(extra, folder / "extra.bin")
    job = school.run("n", **{**school.taught, "teacher_model_path": folder / "extra.bin"})
    assert "left over, not used: target.sp.linear_1.weight" in job.output
    line = school.fail("o", **{**school.taught, "teacher_config_path": folder / "absent.json"})
    assert "absent.json: No such file" in line and "--teacher_config_path" in line
