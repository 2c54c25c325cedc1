"""The installed package: what a wheel holds, and the console commands."""

import importlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from uer import __version__, commands

tomllib = pytest.importorskip("tomllib")
SOURCES = ("uer", "finetune", "inference", "scripts", "models", "preprocess.py", "pretrain.py", "setup.py",
           "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "requirements.txt", "requirements-optional.txt",
           "models/special_tokens_map.json")


@pytest.fixture
def call(monkeypatch, capsys):
    """`call(commands.finetune, "ner", "--help")` -> status and standard output."""
    def run(command, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["x", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        with pytest.raises(SystemExit) as stopped:
            command()
        return (stopped.value.code, *capsys.readouterr())

    return run


def test_every_console_command_is_there(root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, place in project["scripts"].items():
        module, function = place.split(":")
        assert getattr(importlib.import_module(module), function).__doc__.startswith(name)
    assert "do not install both" in project["description"]


def test_every_task_and_conversion_has_its_script(root):
    for folder, end in (("finetune", ".py"), ("inference", "_infer.py")):
        found = commands.tasks(root / folder, end)
        assert found.keys() >= {"classifier", "ner", "cmrc", "classifier-multi-label"}
        assert len(found) == len(list((root / folder).glob("*.py")))
    found = commands.conversions(root / "scripts")
    assert len(found) == len(list((root / "scripts").glob("convert_*.py"))) >= 35
    assert {name: found[name].name for name in (
        "bert-to-uer", "bert-from-original-tf", "albert-to-original-tf", "text-classification-to-huggingface")} == {
            "bert-to-uer": "convert_bert_from_huggingface_to_uer.py",
            "bert-from-original-tf": "convert_bert_from_original_tf_to_uer.py",
            "albert-to-original-tf": "convert_albert_from_uer_to_original_tf.py",
            "text-classification-to-huggingface": "convert_bert_text_classification_from_uer_to_huggingface.py"}


@pytest.mark.parametrize(("command", "arguments", "told"), [
    (commands.preprocess, (), "usage: uer-preprocess --corpus_path"), (commands.pretrain, (), "usage: uer-pretrain"),
    (commands.family, (), "usage: uer-family"), (commands.finetune, (), "classifier-grid"),
    (commands.finetune, ("run_ner",), "usage: uer-finetune ner"), (commands.infer, ("cmrc",), "uer-infer cmrc"),
    (commands.convert, (), "bert-to-uer"), (commands.convert, ("bert_to_uer",), "usage: uer-convert bert-to-uer")])
def test_help_of_the_commands(call, command, arguments, told):
    status, printed, _ = call(command, *arguments, "--help")
    assert status == 0 and told in printed


def test_mistakes_are_one_line(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, errors = call(commands.finetune, "clasifier")
    assert status == 2 and "did you mean classifier?" in errors and errors.count("\n") == 1
    assert call(commands.convert)[0] == 2
    status, _, errors = call(commands.pretrain, "--output_model_path", "x", "--config_path", "models/bert/none.json")
    assert status == 2 and "models/bert/none.json" in errors


def test_a_wheel_holds_the_package_the_scripts_and_the_settings(root, tmp_path):
    """Built from a copy of the sources; then a command of it runs where nothing else of ours is."""
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 71:
        pytest.skip("setuptools makes wheels by itself from 71 on")
    for name in SOURCES:
        target = tmp_path / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (root / name).is_dir():
            shutil.copytree(root / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, target)
    code = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "source", capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert __version__ in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    for folder in ("uer", "finetune", "inference", "scripts"):
        place = Path() if folder == "uer" else Path("uer_commands")
        ours = {str(place / path.relative_to(root)) for path in (root / folder).rglob("*.py")}
        assert ours <= held
    assert {f"uer_commands/models/{path.relative_to(root / 'models')}"
            for pattern in ("*/*config.json", "loss_laws/*.json") for path in (root / "models").glob(pattern)} <= held
    assert {"uer_commands/pretrain.py", "uer_commands/preprocess.py"} <= held
    assert not any("tests" in name or name.endswith("setup.py") for name in held)
    code = (f"import sys; sys.path[:0] = [{str(tmp_path / 'installed')!r}]; from uer import commands, model_settings; "
            "print(model_settings.find_config('models/bert/tiny_config.json')); commands.finetune()")
    done = subprocess.run([sys.executable, "-c", code, "--help"], cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "installed/uer_commands/models/bert/tiny_config.json") in done.stdout
    assert "classifier-multi-label" in done.stdout
