"""A grid finishes what is left of it, and says which setting is best."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from tests.tools.processes import is_running, wait_for
from uer.errors import UserError
from uer.finetuning import grid, grid_results
from uer.finetuning.command import parse_with
from uer.finetuning.config import GridConfig
from uer.finetuning.tasks.classification import Classification
from uer.runtime.lock import OutputLock
from uer.runtime.processes import start_method


def run(tiny, **changes) -> list[dict]:
    flags = {"batch_size_list": (8, 16), "learning_rate_list": (0.01,), "epochs_num_list": (1, 3),
             "parallel_trials": 1, **changes}
    command, (config,) = parse_with("test", Classification, (GridConfig,), tiny.flags(**flags))
    return grid.run_grid(command, config)


def figures(records: list[dict]) -> dict:
    return {record["key"]: (record["score"], record["dev"], record["test"]) for record in records}


@pytest.fixture
def started(monkeypatch) -> list:
    """Keys of the trials that were really run."""
    keys, original = [], grid.run_plan
    monkeypatch.setattr(grid, "run_plan", lambda *given: keys.append(given[3].key) or original(*given))
    return keys


def test_a_grid_resumes_and_keeps_its_best_model(tiny, started):
    records = run(tiny, test_path=tiny.path("test.tsv"))
    assert len(records) == len(started) == 4
    best = max(record["score"] for record in records)
    saved = json.loads(Path(tiny.path("out/model.json")).read_text("utf-8"))
    assert saved["training"]["dev"]["accuracy"] == best
    assert sorted(path.name for path in Path(tiny.path("out")).iterdir()) == [
        "model.bin", "model.grid.jsonl", "model.json", "model.vocab.txt"]
    lines = Path(tiny.path("out/model.grid.jsonl")).read_bytes().split(b"\n")
    Path(tiny.path("out/model.grid.jsonl")).write_bytes(b"\n".join(lines[:3]) + b"\n" + lines[3][:40])
    again = run(tiny, test_path=tiny.path("test.tsv"), results_path=tiny.path("out/model.grid.jsonl"))
    assert len(started) == 5
    assert figures(again) == figures(records)
    assert len(grid.read_results(Path(tiny.path("out/model.grid.jsonl")))) == 4


def test_what_a_killed_grid_leaves_is_removed_and_another_grid_is_refused(tiny, monkeypatch):
    for name in ("model.0123456789abcdef.bin", "model.0123456789abcdef.vocab.txt.0a1b2c3d.tmp", "model.mine.bin"):
        tiny.write(name, "x")
    changes = {"output_model_path": tiny.path("model.bin"), "epochs_num_list": (1,), "batch_size_list": (8,)}
    run(tiny, **changes)
    assert sorted(path.name for path in tiny.folder.glob("model*")) == [
        "model.bin", "model.grid.jsonl", "model.json", "model.mine.bin", "model.vocab.txt"]
    lock = OutputLock(tiny.folder / "model.grid.jsonl")
    monkeypatch.setattr(grid, "OutputLock", lambda path: OutputLock(path, patience=0.0))
    with pytest.raises(UserError, match=r"model.grid.jsonl: another grid is writing there"):
        run(tiny, **changes)
    lock.release()
    with pytest.raises(UserError, match=r"--results_path: .*train.tsv is read by this command"):
        run(tiny, results_path=tiny.path("train.tsv"), **changes)


def test_the_results_may_lie_on_another_file_system_than_the_model(tiny, monkeypatch):
    """A rename does not reach another file system; here it does not reach another folder."""
    def replace(source, target, original=os.replace):
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    run(tiny, epochs_num_list=(1,), batch_size_list=(8,), results_path=tiny.path("elsewhere/results.jsonl"))
    assert sorted(path.name for path in Path(tiny.path("out")).iterdir()) == [
        "model.bin", "model.json", "model.vocab.txt"]


def test_other_data_or_settings_are_other_trials(tiny, started):
    first = run(tiny, epochs_num_list=(1,), batch_size_list=(8,))
    run(tiny, epochs_num_list=(1,), batch_size_list=(8,))
    assert len(started) == 1
    for changes in ({"truncation": "tail"}, {"seed": 9}, {"warmup": 0.2}, {"dev_path": tiny.path("test.tsv")}):
        other = run(tiny, epochs_num_list=(1,), batch_size_list=(8,), **changes)
        assert other[0]["key"] != first[0]["key"]
    assert len(started) == 5


def test_workers_give_the_same_figures(tiny):
    alone = run(tiny, epochs_num_list=(1,), seeds=(1, 2), results_path=tiny.path("alone.jsonl"))
    together = run(tiny, epochs_num_list=(1,), seeds=(1, 2), results_path=tiny.path("together.jsonl"),
                   parallel_trials=2)
    assert figures(alone) == figures(together)


@pytest.mark.skipif(start_method() != "fork", reason="a patched function reaches forked workers only")
def test_a_worker_that_dies_is_named_with_its_trial_and_the_grid_goes_on(tiny, monkeypatch):
    def die(*given):
        os.kill(os.getpid(), signal.SIGKILL)

    flags = {"epochs_num_list": (1,), "parallel_trials": 2}
    message = r"was killed by SIGKILL .*while it worked on batch \d+, rate 0.01, 1 epoch, seed .*1 runs one trial"
    with monkeypatch.context() as patch, pytest.raises(UserError, match=message):
        patch.setattr(grid, "run_plan", die)
        run(tiny, **flags)
    assert len(run(tiny, **flags)) == 2


@pytest.mark.skipif(start_method() != "fork", reason="a patched function reaches forked workers only")
def test_the_workers_of_a_killed_grid_end(tiny, monkeypatch):
    def tell_and_wait(*given):
        (tiny.folder / f"{os.getpid()}.worker").touch()
        time.sleep(60)

    monkeypatch.setattr(grid, "run_plan", tell_and_wait)
    flags = {"epochs_num_list": (1,), "parallel_trials": 2, "output_model_path": tiny.path("killed/model.bin")}
    process = multiprocessing.get_context("fork").Process(target=lambda: run(tiny, **flags))
    process.start()
    wait_for(lambda: len(list(tiny.folder.glob("*.worker"))) == 2)
    process.kill()
    process.join()
    wait_for(lambda: not any(is_running(path.stem) for path in tiny.folder.glob("*.worker")))


def test_the_table_shows_spread_and_collapse():
    def record(rate, seed, score, collapsed=False):
        return {"batch_size": 32, "learning_rate": rate, "epochs_num": 3, "seed": seed, "score": score,
                "score_name": "accuracy", "test": {"accuracy": score - 0.1}, "collapsed": collapsed}
    lines = grid_results.table([record(1e-4, 1, 0.7), record(1e-4, 2, 0.9), record(1e-4, 3, 0.8),
                                record(3e-4, 1, 0.5, True)])
    assert lines[0] == "| batch | rate | epochs | dev accuracy | spread | test accuracy | |"
    assert lines[2:] == ["| 32 | 0.0001 | 3 | 0.8000 | 0.7000 to 0.9000 | 0.7000 | best |",
                         "| 32 | 0.0003 | 3 | 0.5000 |  | 0.4000 | collapsed to one label |"]


def test_what_the_grid_refuses(tiny):
    with pytest.raises(UserError, match="--parallel_trials says how many"):
        run(tiny, world_size=2, gpu_ranks=(0, 1))
    results = tiny.write("results.jsonl", "not json\n")
    with pytest.raises(UserError, match=r"results.jsonl:1: not the line of a trial"):
        run(tiny, results_path=results)
    with pytest.raises(UserError, match="--epochs_num_list must hold positive numbers"):
        run(tiny, epochs_num_list=(0,))
