"""Metrics of fine-tuning, by step or by epoch, and results of grids are read and drawn; tests/training has the rest."""

import json

import pytest

from scripts import plot_training
from uer.errors import UserError

OLD = [{"seed": seed, "batch_size": 32, "learning_rate": 1e-3, "epochs_num": 2, "set": name, "epoch": epoch,
        "train_loss": 1.0 / epoch, "accuracy": 0.5 + epoch / 10}
       for seed in (1, 2) for name, epoch in (("dev", 1), ("dev", 2), ("test", 2))]
NEW = [{"kind": kind, "step": step, "epoch": step / 10, "seed": seed, "learning_rate": 1e-4, **figures}
       for seed in (1, 2) for kind, step, figures in (("train", 5, {"loss": 2.0}), ("train", 10, {"loss": 1.0}),
                                                      ("eval", 10, {"accuracy": 0.7, "macro_f1": 0.6}))]
GRID = [{"key": f"{rate}{seed}", "seed": seed, "batch_size": 32, "learning_rate": rate, "epochs_num": 3,
         "score": 0.5 + seed / 10, "score_name": "accuracy", "dev": {}, "test": None}
        for seed in (1, 2) for rate in (1e-4, 3e-4)]
PRETRAINING = [{"kind": kind, "step": 5, "loss": 5.0, "loss_mlm": 4.5, "loss_sp": 0.5, "acc_mlm": 0.1, **more}
               for kind, more in (("train", {"tokens_per_second": 9.0}), ("eval", {"perplexity_mlm": 99.0}))]
DIVERGED = {**GRID[0], "key": "x", "learning_rate": 1e30, "score": None, "diverged": True, "dev": None}


def write(tmp_path, lines: list[dict], name: str = "m.jsonl") -> str:
    path = tmp_path / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_epochs_and_test_figures_of_each_seed(tmp_path):
    found = plot_training.read_metrics(write(tmp_path, OLD))
    assert {record["run"] for record in found} == {"seed 1", "seed 2"}
    assert [record["loss"] for record in found if record["kind"] == "train" and record["run"] == "seed 1"] == [1.0, 0.5]
    assert [record["accuracy"] for record in found if record["kind"] == "test"] == [0.7, 0.7]


def test_steps_of_each_seed(tmp_path):
    found = plot_training.read_metrics(write(tmp_path, NEW), skip_steps=6)
    assert [(record["kind"], record["step"], record["run"]) for record in found if record["run"] == "seed 2"] == [
        ("train", 10, "seed 2"), ("eval", 10, "seed 2")]


def test_steps_that_a_resumed_run_reports_at_others(tmp_path):
    """Killed after update 300, resumed from the checkpoint of update 200 with a report every 50 updates."""
    lines = [{"kind": kind, "step": step, "loss": float(number)} for number, (kind, step) in enumerate([
        ("train", 100), ("train", 200), ("train", 300), ("eval", 300), ("train", 250), ("train", 300), ("train", 350)])]
    found = plot_training.read_metrics(write(tmp_path, lines))
    assert [(record["kind"], record["step"], record["loss"]) for record in found] == [
        ("train", 100, 0), ("train", 200, 1), ("train", 250, 4), ("train", 300, 5), ("train", 350, 6)]
    mixed = plot_training.read_metrics(write(tmp_path, [*NEW, *GRID]))  # trials have no steps
    assert [record["step"] for record in mixed if record["kind"] == "eval"] == [10, 10]


@pytest.mark.parametrize("lines", [OLD, NEW, [*GRID, DIVERGED]])
def test_pictures(tmp_path, lines):
    pytest.importorskip("matplotlib")
    runs = {path: plot_training.read_metrics(path) for path in (write(tmp_path, lines, "a.jsonl"),
                                                                write(tmp_path, lines, "b.jsonl"))}
    plot_training.draw(runs, str(tmp_path / "p.png"))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_panel_for_each_target_of_pretraining():
    found = plot_training.panels(PRETRAINING)
    assert found == {"loss": "loss (mean of the interval)", "tokens_per_second": "tokens a second",
                     "loss_mlm": "loss of mlm", "loss_sp": "loss of sp", "acc_mlm": "accuracy of mlm",
                     "perplexity_mlm": "perplexity of mlm"}


def test_what_does_not_go_into_one_picture_or_is_no_metrics_file(tmp_path, monkeypatch):
    paths = [write(tmp_path, lines, f"{number}.jsonl") for number, lines in enumerate((OLD, GRID))]
    pytest.importorskip("matplotlib")
    with pytest.raises(UserError, match="do not go into one picture"):
        plot_training.draw({path: plot_training.read_metrics(path) for path in paths}, str(tmp_path / "p.png"))
    for number, content in enumerate((b"\xff\xfe\n{}\n", b"[" * 100_000 + b"\n{}\n", b"{}\n{}\n", b"[1]\n{}\n",
                                      b'{"kind": "eval", "step": 1, "loss": "x"}\n{}\n')):
        (tmp_path / f"bad{number}").write_bytes(content)
        with pytest.raises(UserError, match=f"bad{number}, line 1"):
            plot_training.read_metrics(str(tmp_path / f"bad{number}"))
    assert plot_training.PlotConfig((), "p.xyz").problems() and not plot_training.PlotConfig((), "p.PDF").problems()


def test_the_package_is_looked_for_before_any_file_is_read(monkeypatch):
    monkeypatch.setattr(plot_training.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["plot_training.py", "--metrics_path", "none"])
    with pytest.raises(UserError, match="needs the package matplotlib"):
        plot_training.main()
