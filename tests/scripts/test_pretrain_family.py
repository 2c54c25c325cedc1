"""scripts/pretrain_family.py from corpus to Hugging Face folder: killed in the middle, started again, and stopped."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from uer.errors import UserError
from uer.family import devices
from uer.family.runner import Runner, Stopped

ROOT = Path(__file__).resolve().parents[2]
CHARACTERS = "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A small corpus, vocabulary and model file."""
    folder = tmp_path_factory.mktemp("inputs")
    draw = random.Random(1)
    lines = ["".join(draw.choices(CHARACTERS, k=draw.randint(5, 90))) for _ in range(300)]
    (folder / "corpus.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    (folder / "nano_config.json").write_text(json.dumps({
        "emb_size": 32, "hidden_size": 32, "feedforward_size": 64, "heads_num": 2, "layers_num": 2,
        "max_seq_length": 64, "embedding": ["word", "pos", "seg"], "tie_weights": True, "target": ["mlm"]}))
    return folder


def command(inputs, output, *more):
    return [sys.executable, str(ROOT / "scripts" / "pretrain_family.py"), "--sizes", str(inputs / "nano_config.json"),
            "--corpus_path", str(inputs / "corpus.txt"), "--vocab_path", str(inputs / "vocab.txt"),
            "--output_dir", str(output), "--seq_length", "32", "64", "--total_steps", "10", "40",
            "--global_batch_size", "8", "4", "--batch_size", "4", "4", "--save_checkpoint_steps", "20",
            "--report_steps", "5", "--report_seconds", "0.5", "--device", "cpu", "--name_prefix", "test", "--no_check",
            "--full_sentences", "true", "--document_attention", "true", "--scheduler", "trapezoidal", *more]


# Runs the script of sys.argv in a fork of the server, and its commands in forks of that, so that none imports torch.
PROGRAM = """
import os, runpy, subprocess, sys, types
from __main__ import Forked
from uer.family import devices, runner
runner.subprocess = types.SimpleNamespace(**{{**vars(subprocess), "Popen": Forked}})
devices.measured_flops = lambda *_: 1e11
sys.argv = {argv!r}
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(server, inputs, output, said):
    """The command, which prints to the file `said`; its process."""
    return server.ask({"program": PROGRAM.format(argv=command(inputs, output)[1:]), "log": str(said)})


def run(server, inputs, output, said):
    """The command from its start to its end; what it prints."""
    status = server.ask({"wait": start(server, inputs, output, said), "seconds": 300})
    assert status == 0, read(said)
    return read(said)


def wait_for(server, process, ready, said):
    end = time.monotonic() + 300  # for a machine that others keep busy
    while not ready():
        assert time.monotonic() < end and server.ask({"wait": process, "seconds": 0}) is None, read(said)
        time.sleep(0.01)


def test_killed_while_it_trains_it_ends_as_if_it_had_not_been(inputs, tmp_path, server):
    """The whole pipeline, once. `tests/family/test_runner.py` stops it at other moments, with stand-ins as commands."""
    output, said = tmp_path / "family", tmp_path / "killed.txt"
    process = start(server, inputs, output, said)
    wait_for(server, process, lambda: read(output / "nano" / "stage2_seq64.metrics.jsonl"), said)
    os.kill(process, signal.SIGKILL)  # its training gets SIGTERM, and saves
    assert server.ask({"wait": process, "seconds": 60}) == 128 + signal.SIGKILL

    text = run(server, inputs, output, tmp_path / "again.txt")
    assert "done: 1 model " in text and "nano: stage 2 of 2" in text
    assert "datasets:" not in text and "nano: stage 1" not in text  # what was complete is not made again
    assert "resumed after step" in read(output / "logs" / "nano.log")
    check_folder(output / "test_nano")

    before = files(output)
    assert "nano:" not in run(server, inputs, output, tmp_path / "third.txt")
    assert files(output) == before


def test_a_stopped_run_has_the_signals_status(inputs, tmp_path, run_script, monkeypatch, capsys):
    def stopped(self, costs, devices):
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(Runner, "run", stopped)
    monkeypatch.setattr(devices, "measured_flops", lambda *_: 1e11)
    with pytest.raises(SystemExit) as leaving:
        run_script("pretrain_family.py", *command(inputs, tmp_path / "family")[2:])
    assert leaving.value.code == 143
    assert "everything is saved, the same command continues" in capsys.readouterr().out


def read(path):
    return path.read_text(encoding="utf-8") if path.exists() else ""


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def check_folder(folder):
    """The files of a finished model. Whether transformers loads such a folder is tested in test_convert_bert.py."""
    config = json.loads(read(folder / "config.json"))
    assert config["num_hidden_layers"] == 2 and config["vocab_size"] == 5 + len(CHARACTERS)
    embedding = load_file(folder / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert embedding.shape == (5 + len(CHARACTERS), 32) and embedding.isfinite().all()
    assert read(folder / "vocab.txt").split() == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS]
    card = read(folder / "README.md")
    assert "# test_nano" in card and "Corpus: `corpus.txt`." in card and "| 32 | 300 | 0 |" in card
    assert "Stage 1, 10 steps of 8 x 32 tokens:" in card and "Stage 2, 40 steps of 4 x 64 tokens:" in card
    assert "| 10 | " in card and "| 40 | " in card  # the last points of both curves
    assert "--accumulation_steps 2" in card and "| Attention inside documents | yes |" in card
    assert str(ROOT) not in card


def test_what_cannot_be_done_is_one_line(inputs, tmp_path, run_script):
    for arguments, message in (
            (("--sizes", "tiny"), "--corpus_path is required"),
            (("--sizes", "tiny", "--corpus_path", "x", "--device_name", "H100"), "--device_name is for --dry_run"),
            (("--dry_run", "--parallel_models", "0"), "--parallel_models must be"),
            (("--dry_run", "--torchrun", "--nnodes 2"), "--torchrun was removed"),
            (("--dry_run", "--total_steps", "1", "2", "--learning_rate", "1"), "different counts")):
        with pytest.raises(UserError, match=message):
            run_script("pretrain_family.py", "--vocab_path", inputs / "vocab.txt", "--output_dir", tmp_path, *arguments)


def test_dry_run_and_commands_write_nothing(inputs, tmp_path, run_script):
    arguments = command(inputs, tmp_path / "out", "--global_batch_size", "8", "8")[2:]
    plan = run_script("pretrain_family.py", *arguments, "--dry_run")
    assert "stage 1: 10 steps of 8 x 32 tokens (1 device x 4 rows x 2 micro-batches)" in plan
    shown = run_script("pretrain_family.py", *arguments, "--show_commands", "--recipe", "modern")
    assert shown.count("/preprocess.py ") == 2 and shown.count("/pretrain.py ") == 2
    assert shown.count("--full_sentences") == 2 and shown.count("--document_attention") == 2
    assert shown.count("--whole_word_masking") == 4 and shown.count("--scheduler trapezoidal") == 2
    shown = run_script("pretrain_family.py", *arguments, "--show_commands", "--device", "auto", "--global_batch_size",
                       "16", "16", "--device_name", "H100", "--device_count", "16")
    assert shown.count("--world_size 16") == 2 and shown.count("--batch_size 1 --accumulation_steps 1") == 2
    assert not (tmp_path / "out").exists()
