"""Sweeps and comparisons of runs, by hand-worked curves."""

import json
import math
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import compare_runs
import sweep
from _runs import compared, read_curve, table

from uer import model_settings
from uer.config import TokenizerConfig
from uer.errors import UserError
from uer.training.inputs import Settings


def write_run(path, losses):
    """Evaluations at updates 10, 20, ...; each interval has 1,000 tokens in 2 s."""
    lines = []
    for number, loss in enumerate(losses, start=1):
        lines.append({"kind": "train", "step": 10 * number, "loss": loss, "flops_per_token": 6e6,
                      "interval_seconds": 2.0, "interval_real_tokens": 1000.0})
        lines.append({"kind": "eval", "step": 10 * number, "loss": loss})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_a_curve_adds_up_what_was_used(tmp_path):
    curve = read_curve(write_run(tmp_path / "a.jsonl", [4.0, 3.0, 2.0]))
    assert curve.losses == [4.0, 3.0, 2.0] and curve.axes["updates"] == [10, 20, 30]
    assert curve.axes["seconds"] == [2.0, 4.0, 6.0] and curve.axes["flops"] == [6e9, 12e9, 18e9]
    assert curve.used_until(2.5, "seconds") == 5.0 and curve.used_until(4.5, "tokens") == 1000.0
    assert curve.used_until(1.0, "seconds") is None


def test_differences_are_paired_by_seed(tmp_path):
    groups = {name: [read_curve(write_run(tmp_path / f"{name}{seed}.jsonl", [4.0, end]))
                     for seed, end in enumerate(ends)]
              for name, ends in {"first": [3.0, 2.0], "second": [2.8, 1.6]}.items()}
    first, second = compared(groups)
    assert first["differences"] == [0.0, 0.0]
    assert second["differences"] == pytest.approx([-0.2, -0.4])
    # The goal is 2.5: reached after 2 + 2 * 1.5 / 1.2, which is beyond the end for the first seed.
    assert second["seconds_to_first"] is None
    assert "-0.300 ± 0.100" in table([first, second])[3]


def test_compare_runs_prints_and_draws(tmp_path, run_script):
    pytest.importorskip("matplotlib")
    runs = [f"{name}={write_run(tmp_path / f'{name}.jsonl', losses)}"
            for name, losses in {"a": [5.0, 4.0], "b": [4.0, 3.0]}.items()]
    picture = tmp_path / "runs.png"
    printed = run_script("compare_runs.py", "--runs", *runs, "--output_path", picture)
    assert "| b | 1 | 3.000 | 20.1 | -1.000 |" in printed and picture.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="same number of seeds"):
        run_script("compare_runs.py", "--runs", runs[0], f"{runs[1]},{runs[1].partition('=')[2]}")
    with pytest.raises(UserError, match="would be overwritten"):
        run_script("compare_runs.py", "--runs", *runs, "--json_path", tmp_path / "b.jsonl")


def test_losses_that_are_not_finite_do_not_limit_the_picture(tmp_path):
    limits, panel = [], SimpleNamespace(set_ylim=lambda *limit: limits.append(limit))
    diverged, other = (read_curve(write_run(tmp_path / f"{number}.jsonl", losses))
                       for number, losses in enumerate([[5.0, math.nan], [4.0, 3.0]]))
    compare_runs._limit(panel, {"a": [diverged], "b": [other]})
    compare_runs._limit(panel, {"a": [read_curve(write_run(tmp_path / "c.jsonl", [math.inf]))]})
    assert limits == [(2.9, 5.1)]


def test_a_diverged_run_comes_last_in_the_table(tmp_path, capsys):
    """Its file has null for a held-out loss that is no finite number."""
    trials = []
    for name, seed, losses in (("a", 1, [5.0, 4.0]), ("a", 2, [5.0, 4.0]), ("bad", 1, [5.0, None]), ("bad", 2, [None]),
                               ("b", 1, [None, 3.0]), ("b", 2, [5.0, 3.0])):
        folder = tmp_path / f"{name}{seed}"
        folder.mkdir()
        write_run(folder / sweep.METRICS, losses)
        trials.append(SimpleNamespace(name=name, folder=folder, finished=True))
    sweep.print_table(trials)
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[3:]]
    assert [row[:3] for row in rows] == [["| a", "2", "4.000 ± 0.000"], ["| b", "2", "3.000 ± 0.000"],
                                         ["| bad", "2", "nan"]]


def test_operations_that_were_not_counted_are_no_number(tmp_path):
    path = write_run(tmp_path / "a.jsonl", [4.0])
    (tmp_path / "a.jsonl").write_text((tmp_path / "a.jsonl").read_text().replace("6000000.0", "0.0"))
    assert "| 0.00 | - | 2 | 2 |" in table(compared({"a": [read_curve(path)]}))[2]


COMMON = {"learning_rate": 3.0, "dev_fraction": 0.1, "vocab_path": "v.txt"}
STAND_IN = """
import json, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert "--unpad" not in sys.argv
open(flags["--output_model_path"] + "-1", "w").write("weights")
with open(flags["--metrics_path"], "a") as file:
    for kind in ("train", "eval"):
        print(json.dumps({"kind": kind, "step": 1, "loss": float(flags["--learning_rate"])}), file=file)
"""


@pytest.fixture
def run_sweep(tmp_path, monkeypatch, capsys):
    """`run_sweep(content)` -> what it printed; a stand-in takes the place of pretrain.py."""
    (tmp_path / "pretrain.py").write_text(STAND_IN)
    monkeypatch.setattr(sweep, "ROOT", tmp_path)

    def run(content):
        path = tmp_path / "sweep.json"
        path.write_text(json.dumps(content))
        monkeypatch.setattr(sys, "argv", ["sweep.py", "--sweep_path", str(path), "--output_dir",
                                          str(tmp_path / "out"), "--processes", "2"])
        try:
            sweep.main()
        finally:
            run.printed = capsys.readouterr().out
        return run.printed

    return run


def test_a_sweep_leaves_finished_runs_out(tmp_path, run_sweep):
    content = {"common": COMMON, "seeds": [7], "runs": {"base": {}, "a, b": {"learning_rate": 2.0}}}
    printed = run_sweep(content)
    assert "2 runs, 2 to make" in printed and "| a, b | 1 | 2.000 |" in printed
    assert {path.name for path in (tmp_path / "out" / "base-seed7").iterdir()} == {
        "command.json", "done", "log.txt", "metrics.jsonl"}
    again = run_sweep(content)
    assert "2 runs, 0 to make" in again and again.splitlines()[2:] == printed.splitlines()[-4:]
    content["runs"]["base"]["warmup"] = 0.3
    with pytest.raises(UserError, match="begun with --warmup None"):
        run_sweep(content)


def test_a_failed_run_is_named_and_the_others_are_made(tmp_path, run_sweep):
    content = {"common": COMMON, "runs": {"wrong": {"unpad": "off"}, "right": {}}}
    with pytest.raises(UserError, match="1 runs failed: wrong-seed7"):
        run_sweep(content)
    assert "| right | 1 | 3.000 |" in run_sweep.printed
    assert "AssertionError" in (tmp_path / "out" / "wrong-seed7" / "log.txt").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a program of its parent's death")
def test_a_run_is_told_to_save_when_the_sweep_is_killed(tmp_path):
    """Else it would go on by itself, and the sweep that is started again could not write there."""
    told = tmp_path / "told"
    (tmp_path / "pretrain.py").write_text(
        "import pathlib, signal, sys\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        f"print('begun', flush=True)\nsignal.sigwait([signal.SIGTERM])\npathlib.Path({str(told)!r}).touch()\n")
    driver = ("import os, pathlib, sys, time, sweep\n"
              f"sweep.ROOT = folder = pathlib.Path({str(tmp_path)!r})\n"
              "sweep._start(sweep.Trial('a', 7, folder / 'a'), dict(os.environ), ())\n"
              "while 'begun' not in (folder / 'a' / sweep.LOG).read_text():\n    time.sleep(0.01)\n"
              "os.kill(os.getpid(), 9)\n")
    subprocess.run([sys.executable, "-c", driver], cwd=Path(sweep.__file__).parent, timeout=60, check=False)
    until = time.monotonic() + 60
    while not told.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert told.exists()


def test_the_command_is_one_of_pretrain(tmp_path):
    flags = {"dataset_path": ["a.pt", "b.pt"], "tie_weights": False, "document_attention": True, "do_lower_case": False,
             "optimizer": "muon", "learning_rate": 1e-3, "save_checkpoint_steps": 10, "log_path": None}
    argv = sweep.Trial("base", 9, tmp_path, flags).command()
    settings = model_settings.parse("", [known.type for known in fields(Settings)], argv[2:])
    assert settings[0].dataset_path == ("a.pt", "b.pt") and settings[0].document_attention and settings[0].seed == 9
    (tokenizer,) = (section for section in settings if isinstance(section, TokenizerConfig))
    assert not tokenizer.do_lower_case and "--no-tie_weights" in argv and "--log_path" not in argv


def test_a_run_shorter_than_the_interval_of_reports_has_a_report(tmp_path):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"common": {"report_steps": 200}, "runs": {"short": {"total_steps": 7}, "long": {}}}))
    trials = sweep.read_sweep(sweep.SweepConfig(str(path), str(tmp_path / "out")))
    assert [trial.flags["report_steps"] for trial in trials] == [7, 200]


@pytest.mark.parametrize(("content", "message"), [
    ({"runs": {}}, "needs the keys"), ({"runs": {"a": {"seed": 3}}}, "--seed is set by this command"),
    ({"runs": {"a b": {}, "a/b": {}}}, "the same folder"), ({"run": {"a": {}}}, "needs the keys"),
    ({"runs": {"a": 3}}, "a: must be an object of flags, not 3"), ({"common": [], "runs": {"a": {}}}, "must be an"),
    ({"seeds": 7, "runs": {"a": {}}}, "a list of whole numbers, not 7"), ({"seeds": [], "runs": {"a": {}}}, "a list"),
    ({"seeds": [7, 7], "runs": {"a": {}}}, "names a seed twice"),
    ({"common": COMMON, "runs": {"a": {}, "b": {"learnig_rate": 1}}}, "b: unknown argument .* mean --learning_rate"),
    ({"common": COMMON, "runs": {"a": {"total_steps": "many"}}}, "a: .*many"),
    ({"common": COMMON, "runs": {"a": {"dev_fraction": 0}}}, "a: --dev_dataset_path or --dev_fraction is needed"),
    ({"common": COMMON, "runs": {"a": {"dry_run": True}}}, "--dry_run is set by this command")])
def test_a_wrong_sweep_is_refused(tmp_path, run_script, content, message):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        run_script("sweep.py", "--sweep_path", path, "--output_dir", tmp_path / "out")


def test_a_file_that_is_missing_is_named_without_a_flag_of_another_command(tmp_path, run_script):
    with pytest.raises(UserError, match=r"^\S+/absent\.jsonl: No such file"):
        run_script("compare_runs.py", "--runs", f"a={tmp_path / 'absent.jsonl'}")
