"""Cross-validation judges every example by a model that did not see it."""

import re
from pathlib import Path

import numpy as np
import pytest

from uer.errors import UserError
from uer.finetuning.folds import cross_validate, fold_of, fold_path, infer_with_folds


def test_folds_are_equal_parts_drawn_from_the_seed():
    folds = fold_of(17, 5, 7)
    assert sorted(np.bincount(folds)) == [3, 3, 3, 4, 4]
    assert folds.tolist() == fold_of(17, 5, 7).tolist() != fold_of(17, 5, 8).tolist()
    assert fold_path("a/model.bin", 2) == "a/model-fold_2.bin"


def test_cross_validation_and_its_inference(tiny, capsys):
    cross_validate("test", tiny.flags(dev_path=None, folds_num=3, train_features_path=tiny.path("train.npy"),
                                      log_level="INFO", epochs_num=1, test_path=tiny.path("test.tsv")))
    assert re.search(r"3 folds, accuracy: median(.|\n)*3 folds, test accuracy: median", capsys.readouterr().out)
    assert np.load(tiny.path("train.npy")).shape == (40, 2)
    assert len(list(Path(tiny.path("out")).glob("model-fold_*.bin"))) == 3
    flags = ["--load_model_path", tiny.path("out/model.bin"), "--device", "cpu", "--test_path", tiny.path("test.tsv"),
             "--prediction_path", tiny.path("p.tsv"), "--test_features_path", tiny.path("test.npy")]
    with pytest.raises(UserError, match=r"--folds_num 5: .*model-fold_3.bin is missing; there are folds 0, 1, 2$"):
        infer_with_folds("test", flags)
    with pytest.raises(UserError, match=r"--folds_num 5: .*none-fold_0.bin is missing; there are no folds$"):
        infer_with_folds("test", [*flags, "--load_model_path", tiny.path("out/none.bin")])
    capsys.readouterr()
    infer_with_folds("test", [*flags, "--folds_num", "2"])
    assert "2 of the folds 0, 1, 2 are used" in capsys.readouterr().err
    infer_with_folds("test", [*flags, "--folds_num", "3"])
    assert not capsys.readouterr().err
    features = np.load(tiny.path("test.npy"))
    predicted = Path(tiny.path("p.tsv")).read_text().splitlines()[1:]
    assert [str(row.argmax()) for row in features] == predicted
    settings = Path(tiny.path("out/model-fold_1.json"))
    settings.write_text(settings.read_text("utf-8").replace('"0"', '"no"'), "utf-8")
    with pytest.raises(UserError, match=r"model-fold_1.bin: its labels are no, 1, those of fold 0 are 0, 1"):
        infer_with_folds("test", [*flags, "--folds_num", "2"])
    settings.write_text(settings.read_text("utf-8").replace('"folds_num": 3', '"folds_num": 5'), "utf-8")
    with pytest.raises(UserError, match=r"fold_1.bin is not of the cross-validation of fold 0: folds_num is 5, not 3"):
        infer_with_folds("test", [*flags, "--folds_num", "2"])
    with pytest.raises(UserError, match="cannot be used with cross-validation"):
        cross_validate("test", tiny.flags())
