"""What a person and a machine see of a training."""

import json
import re
import sys
import types
from pathlib import Path

import pytest

from uer.errors import UserError
from uer.finetuning.command import finetune
from uer.finetuning.progress import Progress, describe
from uer.finetuning.start import announce
from uer.finetuning.tasks.classification import Classification
from uer.runtime.launch import RankInfo
from uer.runtime.parallel import ParallelConfig, connect


def test_plan_reports_and_time_left(tiny, capsys):
    finetune("test", Classification, tiny.flags(train_path=tiny.path("many.tsv"), log_level="INFO", report_steps=5,
                                                epochs_num=3))
    out = capsys.readouterr().out
    assert f"Reading and tokenizing {tiny.path('many.tsv')}" in out
    assert re.search(r"Plan: 96 examples in batches of 8, 3 epochs: 36 updates; [\d,]+ parameters; seed 7; CPU .*fp32",
                     out)
    assert out.index("Plan:") < out.index("Expected time:") < out.index("Epoch 3")
    assert re.search(r"Epoch 1, step 5 of 36, loss \d\.\d+, \d+ tokens/s, 0:00:\d\d left", out)
    assert re.search(r"Epoch 2 of 3: trained in .* s, mean loss \d.*; evaluating 37 examples of dev", out)
    assert re.search(r"Epoch 3 of 3: dev accuracy .* evaluated in .* s, 0:00:00 left", out)


def test_time_left_counts_updates_evaluations_and_further_trainings():
    progress = Progress(connect(RankInfo(), ParallelConfig(device="cpu")), trials_left=1)
    progress.begin(0, 100, 0, 4, evaluation_updates=30)
    progress._clock._updates, progress._clock._first, progress._clock._seconds = 13, 1.0, 6.0
    assert progress.seconds_left(50) == pytest.approx(50 * 0.5 + 4 * 5.0 + (100 * 0.5 + 4 * 5.0))
    progress._clock.evaluations, progress.epochs_done, progress.trials_left = [2.0], 1, 0
    assert progress.seconds_left(50) == pytest.approx(50 * 0.5 + 3 * 2.0)


def test_metrics_as_text():
    assert describe({"accuracy": 0.5, "correct": 1, "total": 2, "f1": 1 / 3}) == "accuracy 0.5000 (1/2), f1 0.3333"


def test_tensorboard_and_wandb_get_the_same_figures(tiny, monkeypatch):
    pytest.importorskip("tensorboard")
    logged, projects = [], []
    fake = types.ModuleType("wandb")
    fake.init = lambda project: projects.append(project) or types.SimpleNamespace(
        log=logged.append, finish=lambda: projects.append("finished"))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    finetune("test", Classification, tiny.flags(tensorboard_dir=tiny.path("board"), wandb_project="mine", seeds=(1, 2),
                                                metrics_path=tiny.path("metrics.jsonl"), epochs_num=1))
    assert list(Path(tiny.path("board")).glob("events*"))
    assert projects == ["mine", "finished"]
    lines = [json.loads(line) for line in Path(tiny.path("metrics.jsonl")).read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses == [entry[name] for entry in logged for name in entry if name.endswith("train/loss")]
    assert any("seed_2/eval/accuracy" in entry for entry in logged)


def test_a_missing_package_is_found_before_any_work(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="--wandb_project needs the package wandb"):
        finetune("test", Classification, tiny.flags(wandb_project="mine", train_path="not read.tsv"))


def test_the_first_line_needs_no_torch_and_is_that_of_one_rank(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["finetune/run_classifier.py", "--train_path", "x"])
    announce()
    assert re.search(r"run_classifier.py: loading PyTorch\n", capsys.readouterr().out)
    monkeypatch.setenv("RANK", "1")
    announce()
    monkeypatch.delenv("RANK")
    monkeypatch.setattr(sys, "argv", ["finetune/run_classifier.py", "--help"])
    announce()
    assert capsys.readouterr().out == ""


def test_plot_training_reads_the_metrics(tiny, root):
    import runpy

    finetune("test", Classification, tiny.flags(metrics_path=tiny.path("metrics.jsonl"), epochs_num=2))
    script = runpy.run_path(str(root / "scripts" / "plot_training.py"), run_name="plot_training")
    records = script["read_metrics"](tiny.path("metrics.jsonl"))
    assert [record["kind"] for record in records] == ["train", "eval", "train", "eval"]
    assert all("accuracy" in record for record in records if record["kind"] == "eval")
