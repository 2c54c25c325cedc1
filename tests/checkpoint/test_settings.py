"""The settings file beside a checkpoint: written whole, read back, told from files of somebody else."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from uer import cli
from uer.checkpoint.settings import read_settings, settings_path, write_settings
from uer.checkpoint.state import StateFolder
from uer.config import ModelConfig, TrainConfig
from uer.errors import UserError
from uer.finetuning.paths import model_files


def test_what_was_written_is_read(tmp_path):
    weights = tmp_path / "m.bin-1000"
    assert read_settings(weights) is None
    settings = {"hidden_size": 37, "pretrained_model_path": "models/模型.bin-5", "betas": [0.9, 0.98], "teacher": None}
    write_settings(weights, 1000, settings)
    content = read_settings(weights)
    assert (content["step"], content["settings"]) == (1000, settings)
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin-1000.settings.json"]
    assert "模型" in settings_path(weights).read_text("utf-8")


def test_files_of_somebody_else_are_passed_over_and_damaged_ones_refused(tmp_path):
    path = settings_path(tmp_path / "m-5")
    path.write_text('{"notes": "mine"}')
    assert read_settings(tmp_path / "m-5") is None
    for content, message in (('{"format": "uer-pretrained", "version": 1, "st', "not JSON"), ("[]", "a JSON object"),
                             ('{"format": "uer-pretrained", "version": 2}', "reads version 1"),
                             ('{"format": "uer-pretrained", "version": 1, "step": 5}', "no settings")):
        path.write_text(content)
        with pytest.raises(UserError, match=rf"m-5\.settings\.json.*{message}"):
            read_settings(tmp_path / "m-5")


@pytest.mark.parametrize("name", ["m-12", "m.bin-12", "m", "m.bin"])
def test_a_fine_tuned_model_has_other_companions(name):
    assert settings_path(name) not in model_files(name)


def test_they_may_be_outputs_but_no_inputs(tmp_path):
    """A run that would write `m-10` writes its settings; those of steps that it does not save are left alone."""
    for name in ("m-10.settings.json", "m-7.settings.json", "m-10.settings.json.mine"):
        (tmp_path / name).write_text("{}")
    flags = ["--output_model_path", str(tmp_path / "m"), "--total_steps", "30", "--save_checkpoint_steps", "10"]
    sections = (TrainConfig, ModelConfig)
    with pytest.raises(UserError, match=r"m-10\.settings\.json is read by this command \(--config_path\)"):
        cli.parse("", sections, [*flags, "--config_path", str(tmp_path / "m-10.settings.json")])
    train, _ = cli.parse("", sections, [*flags, "--config_path", str(tmp_path / "m-7.settings.json")])
    assert [Path(file.path).name for file in train.writes()] == ["m-10.settings.json"]
    decay = replace(train, decay_from="n.state-3", decay_steps=4)  # its step 7 is not known before the state is read
    assert "m-7.settings.json" in [Path(file.path).name for file in decay.writes()]


def test_a_killed_run_leaves_no_part_of_one(tmp_path):
    program = ("import os, signal, sys; from uer.checkpoint import settings; "
               "settings.json_text = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL); "
               "settings.write_settings(sys.argv[1], 5, {})")
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "m-5")], cwd=root, check=False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    StateFolder(tmp_path / "m", 2).tidy()
    assert not list(tmp_path.iterdir())


def test_it_is_plain_json(tmp_path):
    write_settings(tmp_path / "m-5", 5, {"seed": 7})
    assert json.loads(settings_path(tmp_path / "m-5").read_text()) == {
        "format": "uer-pretrained", "version": 1, "step": 5, "settings": {"seed": 7}}
