"""The scripts as a user runs them: train, predict, and one clear line where something is wrong."""

import json
from pathlib import Path

import pytest

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"甲乙丙丁"]
CONFIG = {"emb_size": 8, "hidden_size": 8, "feedforward_size": 16, "heads_num": 2, "layers_num": 1, "dropout": 0.0,
          "max_seq_length": 16, "embedding": ["word", "pos", "seg"]}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "train.tsv").write_text("label\ttext_a\n" + "1\t甲乙\n0\t丙丁\n" * 8, encoding="utf-8")
    (tmp_path / "dev.tsv").write_text("label\ttext_a\n1\t甲\n2\t丙\n", encoding="utf-8")
    return tmp_path


def test_train_predict_and_errors(files, run_forked):
    shared = ["--vocab_path", str(files / "vocab.txt"), "--config_path", str(files / "config.json"),
              "--train_path", str(files / "train.tsv"), "--output_model_path", str(files / "model.bin"),
              "--epochs_num", "1", "--seq_length", "8", "--device", "cpu"]
    wrong = run_forked("finetune/run_classifier.py", *shared, "--dev_path", str(files / "dev.tsv"))
    assert wrong.returncode == 2
    assert wrong.stderr == (f"error: {files}/dev.tsv:3: label '2' is not one of the 2 labels of the training file: "
                            "0, 1\n")
    (files / "file").write_text("")
    nowhere = run_forked("finetune/run_classifier.py", *shared, "--dev_path", str(files / "train.tsv"),
                  "--output_model_path", str(files / "file" / "model.bin"))
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (2, 1)
    assert f"{files}/file cannot be written to" in nowhere.stderr
    done = run_forked("finetune/run_classifier_grid.py", *shared, "--dev_path", str(files / "train.tsv"),
                      "--batch_size_list", "4", "8", "--learning_rate_list", "1e-2", "--epochs_num_list", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| 0.01 | 1 |") == 2
    predicted = run_forked("inference/run_classifier_infer.py", "--load_model_path", str(files / "model.bin"),
                    "--test_path", str(files / "dev.tsv"), "--prediction_path", str(files / "out.tsv"))
    assert predicted.returncode == 0, predicted.stderr
    assert (files / "out.tsv").read_text().splitlines()[0] == "label"
    assert len((files / "out.tsv").read_text().splitlines()) == 3
