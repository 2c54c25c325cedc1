"""Stacking with LightGBM: from cross-validated features to labels, and what is refused."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.finetuning.conftest import make_tiny
from uer.errors import UserError
from uer.finetuning.folds import cross_validate, infer_with_folds

Run = Callable[..., str]


@pytest.fixture
def flags(tmp_path: Path) -> dict[str, object]:
    """Three labels, and features of two models that together tell them."""
    draw = np.random.default_rng(5)
    (tmp_path / "features").mkdir()
    for part, count in (("train", 90), ("test", 30)):
        labels = draw.integers(0, 3, count)
        rows = "".join(f"{'abc'[label]}\ttext\n" for label in labels)
        (tmp_path / f"{part}.tsv").write_text(f"label\ttext_a\n{rows}")
        for number in range(2):
            noisy = (labels == number)[:, None] + draw.normal(0, 0.1, (count, 2))
            np.save(tmp_path / f"features/{part}_features_{number}.npy", noisy.astype(np.float32))
    return {"--train_path": tmp_path / "train.tsv", "--train_features_path": f"{tmp_path}/features/",
            "--models_num": 2, "--labels_num": 3}


@pytest.fixture
def testing(tmp_path: Path) -> dict[str, object]:
    return {"--test_path": tmp_path / "test.tsv", "--test_features_path": tmp_path / "features"}


def words(*parts: dict[str, object]) -> list[object]:
    return [word for part in parts for pair in part.items() for word in pair]


def test_search_then_stacking(run_script: Run, flags: dict[str, object], testing: dict[str, object],
                              tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    pytest.importorskip("optuna")
    found = run_script("run_lgb_cv_bayesopt.py", *words(flags), "--epochs_num", 8, "--folds_num", 3, "--params_path",
                       tmp_path / "params.json").splitlines()
    params = json.loads((tmp_path / "params.json").read_text())
    assert json.loads(found[-1]) == params and float(found[-2].split("macro F1 ")[1][:6]) > 0.9
    printed = run_script("run_lgb.py", *words(flags, testing), "--params_path", tmp_path / "params.json",
                         "--prediction_path", tmp_path / "p.tsv")
    predicted = (tmp_path / "p.tsv").read_text().splitlines()
    gold = [line.split("\t")[0] for line in (tmp_path / "test.tsv").read_text().splitlines()]
    right = sum(one == other for one, other in zip(predicted[1:], gold[1:], strict=True))
    assert predicted[0] == "label" and right >= 27 and f"({right} of 30 right)" in printed
    (tmp_path / "test.tsv").write_text("text_a\n" + 30 * "text\n")
    written = run_script("run_lgb.py", *words(flags, testing), "--prediction_path", tmp_path / "q.tsv")
    assert written == f"written: {tmp_path / 'q.tsv'}: 30 labels\n"
    (tmp_path / "params.json").write_text('{"num_leaves": -4}')
    with pytest.raises(UserError, match=r"LightGBM: .*num_leaves"):
        run_script("run_lgb.py", *words(flags, testing), "--params_path", tmp_path / "params.json",
                   "--prediction_path", tmp_path / "q.tsv")


class NearestMeans:
    """Predicts the label with the nearest mean; what LightGBM's model is where the package is not installed."""

    def __init__(self, settings: dict[str, object], data: tuple[np.ndarray, np.ndarray], num_boost_round: int) -> None:
        assert settings["num_class"] == 2 and num_boost_round == 100
        self.means = np.stack([data[0][data[1] == label].mean(0) for label in range(2)])

    def predict(self, features: np.ndarray) -> np.ndarray:
        return -((features[:, None] - self.means) ** 2).sum(-1)


@pytest.fixture
def lightgbm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package, or what takes its place in the tests."""
    if importlib.util.find_spec("lightgbm") is None:
        error = SimpleNamespace(LightGBMError=RuntimeError)
        monkeypatch.setitem(sys.modules, "lightgbm", SimpleNamespace(
            Dataset=lambda *data: data, train=NearestMeans, basic=error))


def test_features_of_cross_validation(run_script: Run, lightgbm: None, tmp_path: Path) -> None:
    """The whole way: cross-validation and its inference write what run_lgb.py reads, in the order of the examples."""
    tiny = make_tiny(tmp_path)
    cross_validate("test", tiny.flags(train_path=tiny.path("many.tsv"), dev_path=None, folds_num=2, epochs_num=10,
                                      learning_rate=0.003,
                                      train_features_path=tiny.path("f/train_features_0.npy")))
    infer_with_folds("test", ["--load_model_path", tiny.path("out/model.bin"), "--folds_num", "2", "--device", "cpu",
                              "--test_path", tiny.path("test.tsv"), "--prediction_path", tiny.path("p.tsv"),
                              "--test_features_path", tiny.path("f/test_features_0.npy")])
    printed = run_script("run_lgb.py", "--train_path", tiny.path("many.tsv"), "--test_path", tiny.path("test.tsv"),
                         "--train_features_path", tiny.path("f/"), "--test_features_path", tiny.path("f/"),
                         "--models_num", 1, "--labels_num", 2)
    assert printed.endswith(" of 29 right)\n") and float(printed.split()[1].rstrip(",")) > 0.9


@pytest.mark.parametrize("script", ["run_lgb.py", "run_lgb_cv_bayesopt.py"])
def test_a_missing_library_is_named(run_script: Run, flags: dict[str, object], testing: dict[str, object],
                                    script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(UserError, match=r"needs the package lightgbm .*: pip install lightgbm"):
        run_script(script, *words(flags, testing if script == "run_lgb.py" else {}))


def test_folds_have_equal_parts_of_every_label(run_script: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "scripts"))
    from run_lgb_cv_bayesopt import even_folds

    numbers = np.array([0] * 7 + [1] * 3 + [2] * 4)
    folds = even_folds(numbers, 3, 1)
    assert sorted(np.bincount(folds)) == [4, 5, 5]
    assert all(np.ptp(np.bincount(folds[numbers == label], minlength=3)) <= 1 for label in range(3))
    assert folds.tolist() != even_folds(numbers, 3, 2).tolist()


@pytest.mark.parametrize(("change", "message"), [
    ({"--models_num": 3}, r"feature file 3 of --models_num 3: .*train_features_2.npy: No such file"),
    ({"--labels_num": 2}, "--labels_num 2: .* has 3 labels"),
    ({"--train_path": "test.tsv"}, "train_features_0.npy: 90 rows, but .*test.tsv has 30 examples"),
    ({"--test_path": "train.tsv"}, "test_features_0.npy: 30 rows, but .*train.tsv has 90 examples"),
    ({"--test_path": "none.tsv"}, "has no labels to compare with"),
    ({"--test_path": "other.tsv"}, "other.tsv:3: label 'd' is not one of the 3 labels"),
    ({"--test_features_path": "wide/"}, "5 features an example, but 4 in training"),
    ({"--test_features_path": "flat/"}, r"an array of numbers \(examples, width\) is needed"),
    ({"--test_features_path": "text/"}, "not an array of numbers"),
    ({"--models_num": 0}, "--models_num must be at least 1"),
])
def test_files_that_do_not_fit_are_refused(run_script: Run, flags: dict[str, object], testing: dict[str, object],
                                           tmp_path: Path, change: dict[str, object], message: str) -> None:
    (tmp_path / "none.tsv").write_text("text_a\n" + 30 * "text\n")
    (tmp_path / "other.tsv").write_text("label\ttext_a\na\tx\nd\tx\n")
    for folder, array in (("wide", np.zeros((30, 3))), ("flat", np.zeros(30))):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "test_features_0.npy", array)
        np.save(tmp_path / folder / "test_features_1.npy", np.zeros((30, 2)))
    (tmp_path / "text").mkdir()
    (tmp_path / "text/test_features_0.npy").write_text("0.1 0.2")
    change = {name: f"{tmp_path}/{value}" if isinstance(value, str) else value for name, value in change.items()}
    with pytest.raises(UserError, match=message):
        run_script("run_lgb.py", *words({**flags, **testing, **change}))
