"""A killed fine-tuning goes on from its last whole epoch, to the same bits; diverged weights are never kept."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from uer.checkpoint.files import load_weights, save_weights
from uer.errors import UserError
from uer.finetuning import command as run
from uer.finetuning import grid, grid_keeper, grid_results, loop
from uer.finetuning.command import finetune, parse_with
from uer.finetuning.config import GridConfig
from uer.finetuning.folds import cross_validate
from uer.finetuning.resume import TrainingState, pack, unpack
from uer.finetuning.tasks.classification import Classification
from uer.finetuning.tasks.simcse import Simcse
from uer.finetuning.trials import Trials
from uer.model import build_model
from uer.runtime import launch
from uer.runtime.lock import OutputLock


class Killed(BaseException):
    """Stands for a kill: nothing of the program catches it."""


@pytest.fixture(scope="module")
def whole(shared_tiny):
    """(files, printed text, records of a grid): a training and a grid that nobody killed, under the names `whole` and
    `whole_grid`."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train(shared_tiny, "whole")
    return shared_tiny, printed.getvalue(), run_grid(shared_tiny, "whole_grid")


def train(tiny, name: str = "out", **changes) -> dict:
    finetune("test", Classification, tiny.flags(**{
        "output_model_path": tiny.path(f"{name}/model.bin"), "dropout": 0.1, "epochs_num": 3, "log_level": "INFO",
        "test_path": tiny.path("test.tsv"), **changes}))
    return json.loads(Path(tiny.path(f"{name}/model.json")).read_text("utf-8"))["training"]


def kill_at(monkeypatch, owner, name: str, call: int) -> None:
    """Stop the program before the `call`-th call of a function."""
    original, calls = getattr(owner, name), []

    def wrapped(*given, **named):
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return original(*given, **named)

    monkeypatch.setattr(owner, name, wrapped)


def same_files(tiny, left: str, right: str) -> bool:
    return all(Path(tiny.path(f"{left}/model{end}")).read_bytes() == Path(tiny.path(f"{right}/model{end}")).read_bytes()
               for end in (".bin", ".json", ".vocab.txt"))


@pytest.mark.parametrize("owner, name, call", [
    (loop, "collate", 9), (loop, "predict", 2), (Trials, "save", 2), (TrainingState, "save", 1),
    (TrainingState, "save", 3), (TrainingState, "finish", 1), (run, "report", 1)])
def test_a_killed_run_ends_with_the_same_files(whole, monkeypatch, capsys, owner, name, call):
    (files, out, _), folder = whole, f"{name}-{call}"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, owner, name, call)
        train(files, folder)
    capsys.readouterr()
    train(files, folder)
    again = capsys.readouterr().out
    assert same_files(files, "whole", folder)
    assert final_lines(out) == final_lines(again)
    assert not [path for path in Path(files.path(folder)).iterdir() if "state" in path.name or "lock" in path.name]
    if (name, call) in (("predict", 2), ("save", 3)):
        assert "Going on after epoch" in again


@pytest.mark.parametrize("adversarial", [{}, {"use_adv": True, "fgm_epsilon": 0.5}])
def test_a_training_in_parts_goes_on_with_its_number_of_threads(tiny, monkeypatch, capsys, adversarial):
    flags = {"epochs_num": 2, **adversarial}
    train(tiny, "threads", threads=3, **flags)
    assert "CPU process of 3 threads, a part of each batch for each" in capsys.readouterr().out
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, TrainingState, "save", 2)
        train(tiny, "killed", threads=3, **flags)
    train(tiny, "killed", threads=2, **flags)
    assert "Going on after epoch 1" in capsys.readouterr().out
    assert same_files(tiny, "threads", "killed")
    train(tiny, "single", threads=1, **flags)
    assert not same_files(tiny, "threads", "single")


def test_a_loss_that_compares_a_batch_is_not_divided(tiny):
    tiny.write("pairs.tsv", "text_a\n" + "".join(f"{text}\n" for text in ("甲乙丙", "丁戊", "己庚辛壬", "癸")))
    finetune("test", Simcse, tiny.flags(train_path=tiny.path("pairs.tsv"), dev_path=scored(tiny), threads=1))
    one = Path(tiny.path("out/model.bin")).read_bytes()
    finetune("test", Simcse, tiny.flags(train_path=tiny.path("pairs.tsv"), dev_path=scored(tiny), threads=4))
    assert Path(tiny.path("out/model.bin")).read_bytes() == one


def scored(tiny) -> str:
    return tiny.write("scored.tsv", "label\ttext_a\ttext_b\n1\t甲乙\t甲\n0\t丙丁\t戊\n2\t己\t己庚\n")


def final_lines(text: str) -> list[str]:
    """What is said of the best model, without the time of day and the output's folder."""
    lines = [line.partition("] ")[2] for line in text.splitlines()]
    start = next(number for number, line in enumerate(lines) if line.startswith("Best:"))
    return [lines[start].partition(";")[0], *lines[start + 1:]]


def test_finished_seeds_are_not_trained_again(tiny, monkeypatch, capsys):
    train(tiny, "whole", seeds=(3, 1, 2), epochs_num=2)
    out = capsys.readouterr().out
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, TrainingState, "save", 4)
        train(tiny, "out", seeds=(3, 1, 2), epochs_num=2)
    train(tiny, "out", seeds=(3, 1, 2), epochs_num=2)
    again = capsys.readouterr().out
    assert "Finished before: seed 3" in again
    assert same_files(tiny, "whole", "out")
    assert final_lines(out) == final_lines(again)


def test_several_ranks_go_on_too(tiny, monkeypatch, capfd):
    """Both ranks end before the second epoch's state is written."""
    flags = {"world_size": 2, "gpu_ranks": (0, 1), "epochs_num": 2, "test_path": None}
    train(tiny, "whole", **flags)
    with monkeypatch.context() as patch:
        original = TrainingState.save
        patch.setattr(TrainingState, "save", lambda self, name, updater, best, epoch:
                      launch.os._exit(1) if epoch == 2 else original(self, name, updater, best, epoch))
        with pytest.raises(SystemExit):
            train(tiny, "out", **flags)
    train(tiny, "out", **flags)
    assert "Going on after epoch 1" in capfd.readouterr().out
    assert same_files(tiny, "whole", "out")


def test_cross_validation_goes_on_with_the_fold_under_way(tiny, monkeypatch, capsys):
    def validate(name: str) -> None:
        cross_validate("test", tiny.flags(dev_path=None, folds_num=3, epochs_num=1, log_level="INFO",
                                          output_model_path=tiny.path(f"{name}/model.bin"),
                                          train_features_path=tiny.path(f"{name}.npy")))
    validate("whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, TrainingState, "save", 2)
        validate("out")
    validate("out")
    assert "Finished before: fold 0" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(tiny.path("whole.npy")), np.load(tiny.path("out.npy")))


def test_another_state_is_not_used(tiny, monkeypatch, capsys):
    """Other settings, other data, a damaged file, --resume never: a note, and a new start."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, TrainingState, "finish", 1)
        train(tiny, "out", epochs_num=1)
    state = Path(tiny.path("out/model.bin.state"))
    kept = state.read_bytes()
    for changes, note in (({"learning_rate": 0.02}, "other settings or data; starting anew"),
                          ({"dev_path": tiny.path("test.tsv")}, "other settings or data; starting anew"),
                          ({"resume": "never"}, "is not used"), (None, "starting anew")):
        state.write_bytes(kept if changes is not None else kept[:1000])
        train(tiny, "out", epochs_num=1, **(changes or {}))
        said = capsys.readouterr().out
        assert note in said
        assert "Going on" not in said
        assert not state.exists()


def test_packing_gives_back_the_arrays():
    arrays = [np.arange(3, dtype=np.float32), np.empty(0, np.float32), np.ones(2, np.float32)]
    for given in (arrays, []):
        found = unpack(pack(given))
        assert len(found) == len(given)
        assert all(np.array_equal(one, other) for one, other in zip(found, given))


def test_the_best_epoch_is_evaluated_once(tiny, monkeypatch):
    sizes, original = [], loop.predict
    monkeypatch.setattr(loop, "predict", lambda model, task, examples, *given: sizes.append(len(examples)) or
                        original(model, task, examples, *given))
    train(tiny, epochs_num=2)
    assert sizes == [37, 37]


def test_weights_that_are_not_finite_are_never_used_or_saved(tiny):
    with pytest.raises(UserError, match=r"not finite after step \d+ .*such weights are never saved"):
        train(tiny, learning_rate=1e30)
    assert not Path(tiny.path("out/model.bin")).exists()
    config = run.parse_command("test", Classification, tiny.flags()).model
    state = build_model(config, 27).state_dict()
    state["encoder.transformer.0.layer_norm_2.gamma"][3] = float("nan")
    save_weights(state, tiny.path("nan.bin"))
    with pytest.raises(UserError, match=r"nan.bin: encoder.transformer.0.layer_norm_2.gamma is not finite"):
        train(tiny, pretrained_model_path=tiny.path("nan.bin"))
    with pytest.raises(UserError, match=r"not finite after step"):
        cross_validate("test", tiny.flags(dev_path=None, folds_num=2, epochs_num=1, learning_rate=1e30))


def test_a_model_that_was_good_before_it_diverged_stays(tiny, monkeypatch):
    original = loop.Updater.check
    train(tiny, "one", epochs_num=2, test_path=None)
    monkeypatch.setattr(loop.Updater, "check", lambda self, loss, epoch: original(
        self, float("nan") if epoch == 2 else loss, epoch))
    with pytest.raises(UserError, match="epoch 2, seed 7"):
        train(tiny, "out", epochs_num=2, test_path=None)
    assert all(value.isfinite().all() for value in load_weights(tiny.path("out/model.bin")).values())


def test_two_runs_with_one_output_are_told_apart(tiny, monkeypatch):
    Path(tiny.path("out")).mkdir()
    lock = OutputLock(Path(tiny.path("out/model.bin")))
    monkeypatch.setattr(run, "OutputLock", lambda path: OutputLock(path, patience=0.0))
    with pytest.raises(UserError, match="another run is writing there"):
        train(tiny)
    lock.release()
    train(tiny, epochs_num=1)


def test_bad_seeds_are_refused(tiny):
    for changes in ({"seed": -1}, {"seeds": (1, -2)}, {"seed": 2**63}):
        with pytest.raises(UserError, match="seed"):
            train(tiny, **changes)
    train(tiny, seed=2**63 - 1, epochs_num=1)


# The grid


def run_grid(tiny, name: str, **changes) -> list[dict]:
    flags = {"batch_size_list": (8, 16), "learning_rate_list": (0.01, 0.003), "epochs_num_list": (1,),
             "parallel_trials": 1, "output_model_path": tiny.path(f"{name}/model.bin"), **changes}
    command, (config,) = parse_with("test", Classification, (GridConfig,), tiny.flags(**flags))
    return grid.run_grid(command, config)


def test_a_diverged_trial_is_recorded_and_never_the_best(tiny, capsys):
    records = run_grid(tiny, "out", learning_rate_list=(0.01, 1e30), log_level="INFO")
    assert [record["diverged"] for record in records] == [False, True, False, True]
    assert all((record["score"] is None) == record["diverged"] for record in records)
    lines = grid_results.table(records)
    assert "best" in lines[2] and "1 of 1 diverged" in lines[-1]
    assert "DIVERGED" in capsys.readouterr().out
    assert run_grid(tiny, "out", learning_rate_list=(0.01, 1e30)) == records
    with pytest.raises(UserError, match="every trial of the grid diverged"):
        grid_results.require_a_score(run_grid(tiny, "none", learning_rate_list=(1e30,), batch_size_list=(8,)))
    assert not Path(tiny.path("none/model.bin")).exists()


def test_ties_are_decided_by_the_settings_in_whatever_order_trials_finish(tiny, monkeypatch):
    """All scores are made equal; trials run in the grid's order, in the opposite order, and in workers."""
    monkeypatch.setattr(loop.Trial, "score", property(lambda trial: 0.5))
    first = run_grid(tiny, "first")
    with monkeypatch.context() as patch:
        patch.setattr(grid, "_waiting", lambda plans, results: [
            plan for plan in plans if plan.key not in results][::-1])
        assert {record["key"] for record in run_grid(tiny, "second")} == {record["key"] for record in first}
    run_grid(tiny, "third", parallel_trials=2)
    assert same_files(tiny, "first", "second")
    assert same_files(tiny, "first", "third")
    kept = json.loads(Path(tiny.path("first/model.json")).read_text("utf-8"))["training"]
    assert (kept["batch_size"], kept["learning_rate"]) == (8, 0.003)
    best = grid_results.summarise(first)[0]
    assert (best["batch_size"], best["learning_rate"]) == (8, 0.003)


@pytest.mark.parametrize("owner, name, call", [
    (loop, "predict", 2), (grid_keeper, "move_model", 1), (grid_keeper.os, "replace", 4),
    (grid_keeper.os, "replace", 7), (grid_keeper, "append_lines", 1), (grid_keeper, "append_lines", 3)])
def test_a_killed_grid_keeps_the_same_model(whole, monkeypatch, owner, name, call):
    (files, _, records), folder = whole, f"grid-{name}-{call}"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, owner, name, call)
        run_grid(files, folder)
    again = run_grid(files, folder)
    assert same_files(files, "whole_grid", folder)
    assert [(record["key"], record["score"]) for record in again] == [
        (record["key"], record["score"]) for record in records]


def test_a_kept_model_that_is_gone_or_anothers_is_made_again(tiny):
    run_grid(tiny, "out")
    model = Path(tiny.path("out/model.bin"))
    before = model.read_bytes()
    model.unlink()
    run_grid(tiny, "out")
    assert model.read_bytes() == before
    train(tiny, "out", epochs_num=1)
    run_grid(tiny, "out")
    assert model.read_bytes() == before


def test_the_grid_refuses_flags_that_it_has_no_use_for(tiny):
    for changes in ({"resume": "never"}, {"tensorboard_dir": tiny.path("board")}, {"metrics_path": tiny.path("m")}):
        with pytest.raises(UserError, match=f"--{next(iter(changes))}: "):
            run_grid(tiny, "out", **changes)
