"""pretrain.py with a teacher: resuming, several processes, and what is refused."""

import json
import signal

import pytest
import torch

from tests.training.conftest import assert_close_weights
from uer.checkpoint import files as checkpoint
from uer.config import ModelConfig
from uer.model import build_model

STEPS = {"total_steps": 12, "save_checkpoint_steps": 4, "report_steps": 3}


@pytest.fixture(scope="module")
def school(shared_playground):
    """A playground with a teacher, larger than the student, and a second one; both are random, but sure of themselves.

    One for the whole file: every run has a name of its own.
    """
    school, folder = shared_playground, shared_playground.folder
    config = {**json.loads((folder / "config.json").read_text()), "emb_size": 24, "hidden_size": 24, "heads_num": 3,
              "layers_num": 3}
    (folder / "teacher.json").write_text(json.dumps({**config, "target": ["mlm", "sp"]}))
    config = ModelConfig(**{**config, "embedding": tuple(config["embedding"]), "target": ("mlm",)})
    generator = torch.Generator().manual_seed(3)
    for name in ("teacher", "other-teacher"):
        model = build_model(config, 45)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
        checkpoint.save_weights(model.state_dict(), folder / name)
    school.taught = {**STEPS, "teacher_model_path": folder / "teacher", "teacher_config_path": folder / "teacher.json"}
    school.run("plain", **STEPS)
    return school


def test_what_is_said_and_what_is_saved(school):
    job = school.run("m", **school.taught, soft_alpha=0.25, soft_temperature=2, dev_fraction=0.1)
    line = next(line for line in job.output.splitlines() if "] teacher: " in line)
    assert "parameters" in line and "soft_alpha 0.25, soft_temperature 2; " in line and "GiB a process" in line
    names = [set(school.weights(f"{name}-12")) for name in ("m", "plain")]
    assert names[0] == names[1]
    sizes = [(school.folder / f"{name}.state-12").stat().st_size for name in ("m", "plain")]
    assert abs(sizes[0] - sizes[1]) < 2048
    for figures in (*school.figures("m"), *school.figures("m", "eval")):
        assert figures["distillation loss"] > 0 and figures["acc"] >= 0
        assert abs(figures["loss"] - figures["distillation loss"]) > 1e-3  # the labels' loss, not the mix
    assert "| distillation loss: " in job.output


def test_without_weight_the_run_is_the_plain_one(school):
    school.run("weightless", **school.taught, soft_alpha=0)
    assert (school.folder / "weightless-12").read_bytes() == (school.folder / "plain-12").read_bytes()
    assert school.losses("weightless") == school.losses("plain")


def test_a_killed_run_goes_on_bit_for_bit_and_with_its_own_teacher_only(school):
    flags = {**school.taught, "soft_temperature": 2}
    school.run("whole", **flags)
    job = school.start("killed", **flags, kill={"rename_to": "killed.state-8"})
    assert job.wait() == 128 + signal.SIGKILL
    for change, field in (({"soft_alpha": 0.75}, "soft_alpha was 0.5"), ({"soft_temperature": 3}, "soft_temperature"),
                          ({"teacher_model_path": school.folder / "other-teacher"}, "teacher was "),
                          (dict.fromkeys(("teacher_model_path", "teacher_config_path", "soft_temperature")),
                           "is now null")):
        assert field in school.fail("killed", **{**flags, **change})
    assert "resumed after step 4" in school.run("killed", **flags).output
    assert (school.folder / "killed-12").read_bytes() == (school.folder / "whole-12").read_bytes()


def test_two_ranks_equal_one(school):
    flags = {**school.taught, "dropout": 0.0, "soft_alpha": 0.7, "total_steps": 3, "save_checkpoint_steps": 3}
    school.run("one", **flags, batch_size=8)
    for sharding in ("none", "fsdp"):
        name = f"two-{sharding}"
        school.run(name, **flags, batch_size=4, world_size=2, gpu_ranks=(0, 1), sharding=sharding)
        assert school.losses(name) == pytest.approx(school.losses("one"), abs=2e-5)
        taught = [[line["distillation loss"] for line in school.figures(run)] for run in (name, "one")]
        assert taught[0] == pytest.approx(taught[1], abs=2e-5)
        assert_close_weights(school.weights(f"{name}-3"), school.weights("one-3"))


def test_a_teacher_that_does_not_fit_is_refused_by_name(school):
    folder, weights = school.folder, school.weights("teacher")

    def refused(changes=None, state=None):
        if changes is not None:
            content = {**json.loads((folder / "teacher.json").read_text()), **changes}
            (folder / "other.json").write_text(json.dumps(content))
        if state is not None:
            checkpoint.save_weights(state, folder / "other.bin")
        names = "teacher.json" if changes is None else "other.json", "teacher" if state is None else "other.bin"
        return school.fail("refused", **{**school.taught, "teacher_config_path": folder / names[0],
                                   "teacher_model_path": folder / names[1]})

    assert "max_seq_length is 8, but the dataset's rows have 16 tokens" in refused({"max_seq_length": 8})
    assert "another size: layers 3, but layers 4 in" in refused({"layers_num": 4})
    line = refused({"feed_forward": "gated"})
    assert "missing or of another shape: encoder.transformer.0.feed" in line and "--teacher_config_path" in line
    assert line == school.fail("refused", **{**school.taught, "teacher_config_path": folder / "other.json"},
                               dry_run=True)
    assert "embedding.pos.embedding.weight ([32, 24] in the file, [64, 24] by its" in refused({"max_seq_length": 64})
    line = refused({"heads_num": 5})
    assert "--teacher_config_path" in line and "not divisible" in line
    larger = {name: torch.cat([value, value[:3]]) if len(value) == 45 else value for name, value in weights.items()}
    assert "a vocabulary of 48 entries, but this run's has 45" in refused(state=larger)
    extra = {**weights, "target.sp.linear_1.weight": torch.zeros(24, 24)}
    checkpoint.save_weights(extra, folder / "extra.bin")
    job = school.run("extra", **{**school.taught, "teacher_model_path": folder / "extra.bin"})
    assert "left over, not used: target.sp.linear_1.weight" in job.output
    line = school.fail("refused", **{**school.taught, "teacher_config_path": folder / "absent.json"})
    assert "absent.json: No such file" in line and "--teacher_config_path" in line
