"""A new processor, target and encoder are one file and one line each: everything else works without being touched."""

import contextlib
import io
import json
import random
import runpy
import sys

import pytest
import torch

from tests.contract import toy_members
from uer.data.processors import PROCESSORS
from uer.data.store import open_dataset
from uer.encoders import ENCODERS
from uer.errors import UserError
from uer.targets import TARGETS

CHARACTERS = [chr(0x4E00 + number) for number in range(40)]
MODEL = {"emb_size": 13, "hidden_size": 7, "layers_num": 1, "embedding": ["word"], "encoder": "toy", "target": ["toy"],
         "dropout": 0.1, "max_seq_length": 32, "toy_classes": 3, "toy_scale": 2.0}


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The three lines, and inputs: 3 labels, each with characters of its own."""
    monkeypatch.setitem(PROCESSORS, "toy", toy_members.ToyProcessor)
    monkeypatch.setitem(TARGETS, "toy", toy_members.ToyTarget)
    monkeypatch.setitem(ENCODERS, "toy", toy_members.ToyEncoder)
    draw = random.Random(5)
    rows = []
    for _ in range(300):
        label = draw.randrange(3)
        text = "".join(draw.choices(CHARACTERS[label * 12:label * 12 + 16], k=draw.randint(2, 30)))
        rows.append(f"{label}\t{text}\n")
    (tmp_path / "corpus.tsv").write_text("".join(rows) + "no label here\n\n", encoding="utf-8")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS]))
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    return tmp_path


def run(root, folder, monkeypatch, script, *flags) -> str:
    """A command as the user runs it, in this process, in the folder; what it printed."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [script, "--vocab_path", "vocab.txt", *flags])
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            runpy.run_path(str(root / script), run_name="__main__")
        except SystemExit as ended:
            assert not ended.code, output.getvalue()
    return output.getvalue()


def preprocess(root, folder, monkeypatch, *flags):
    return run(root, folder, monkeypatch, "preprocess.py", "--corpus_path", "corpus.tsv", "--dataset_path", "d.pt",
               "--seq_length", "16", "--data_processor", "toy", *flags)


def pretrain(root, folder, monkeypatch, output, steps, *flags):
    return run(root, folder, monkeypatch, "pretrain.py", "--dataset_path", "d.pt", "--config_path", "config.json",
               "--output_model_path", output, "--total_steps", str(steps), "--batch_size", "16", "--learning_rate",
               "1e-1", "--report_steps", "20", "--save_checkpoint_steps", "20", "--device", "cpu", *flags)


def test_from_a_corpus_to_a_trained_model(root, toy, monkeypatch):
    summary = preprocess(root, toy, monkeypatch, "--processes_num", "2", "--toy_labels_num", "3")
    assert "documents: 300 (1 blank line skipped)" in summary
    assert "corpus.tsv: line 301: 1 tab-separated fields instead of 2, left out" in summary
    dataset = open_dataset(toy / "d.pt")
    assert dataset.info.processor_settings == {"toy_labels_num": 3} and set(dataset.columns["label"]) == {0, 1, 2}
    report = pretrain(root, toy, monkeypatch, "model.bin", 60, "--dev_fraction", "0.1")
    columns = [line for line in report.splitlines() if "held-out" in line][-1]
    assert float(columns.partition("acc: ")[2].split("|")[0]) > 0.9
    assert "perplexity" not in columns  # not of a vocabulary
    assert torch.load(toy / "model.bin-60", weights_only=True)["target.toy.output.weight"].shape == (3, 7)


def test_a_run_that_is_resumed_ends_with_the_same_bits(root, toy, monkeypatch):
    preprocess(root, toy, monkeypatch)
    pretrain(root, toy, monkeypatch, "whole.bin", 40)
    pretrain(root, toy, monkeypatch, "parts.bin", 40)
    for path in toy.glob("parts.bin*-40*"):
        path.unlink()
    assert "resumed after step 20" in pretrain(root, toy, monkeypatch, "parts.bin", 40)
    whole, parts = (torch.load(toy / f"{name}.bin-40", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_settings_of_a_member_are_flags_keys_and_part_of_the_identity(root, toy, monkeypatch, capsys):
    preprocess(root, toy, monkeypatch)
    pretrain(root, toy, monkeypatch, "model.bin", 20)
    with pytest.raises(AssertionError):
        pretrain(root, toy, monkeypatch, "model.bin", 40, "--toy_scale", "3.0")
    assert "toy_scale was 2.0 and is now 3.0" in capsys.readouterr().err
    assert "--toy_scale" in run(root, toy, monkeypatch, "pretrain.py", "--help")


def test_a_target_without_labels_is_refused(root, toy, monkeypatch, capsys):
    preprocess(root, toy, monkeypatch)
    with pytest.raises(AssertionError):
        pretrain(root, toy, monkeypatch, "model.bin", 20, "--target", "mlm")
    assert "--data_processor toy has labels for toy, none for mlm" in capsys.readouterr().err


def test_the_documented_words_of_an_unknown_member(root, toy, monkeypatch, capsys):
    with pytest.raises((AssertionError, UserError)):
        preprocess(root, toy, monkeypatch, "--data_processor", "toys")
    assert f"'toys' is unknown; choose from: {', '.join(PROCESSORS)}\n" in capsys.readouterr().err
