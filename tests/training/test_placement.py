"""What a run decides about its GPU: where the datasets are (there, if all columns of all files fit); CUDA graphs."""

import dataclasses
import gc
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from uer.config import TrainConfig
from uer.data.row_fetcher import copied_bytes
from uer.data.schema import Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, open_dataset, save_dataset
from uer.errors import UserError
from uer.runtime.launch import RankInfo
from uer.training import decay, loaders
from uer.training import run as run_module
from uer.training.cuda_graph import CaptureError

SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


@pytest.mark.parametrize("fits", [True, False])
def test_the_budget_counts_training_and_evaluation_data(tmp_path, monkeypatch, fits):
    info = DatasetInfo(FORMAT_VERSION, "mlm", 8, {"src": Column()}, {"src": 8}, {"src": VocabInfo("", 300, SPECIAL)})
    for name in ("train.pt", "dev.pt"):
        save_dataset(tmp_path / name, info, {"src": np.arange(200)}, {"src": np.arange(0, 201, 8)})
    train, dev = ([open_dataset(tmp_path / name)] for name in ("train.pt", "dev.pt"))
    data = SimpleNamespace(train=train, dev=dev, processor=SimpleNamespace(schema=lambda: {"src": Column()}))
    needed = copied_bytes(train + dev, ["src"])
    assert needed == 2 * copied_bytes(train, ["src"])
    free = needed / loaders.FRACTION_FOR_DATA + (1 if fits else -1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr(loaders, "open_fetchers", lambda datasets, columns, device: (datasets, columns, str(device)))
    made = loaders.Loaders(SimpleNamespace(dataset_device="auto"), data, SimpleNamespace(device=torch.device("cuda")),
                           None, static=True, reads_padding=False, both_sides=False)
    opened = made._placement["fetchers"]
    assert opened == (train + dev, ["src"], "cuda" if fits else "cpu")


def settings_of(**train) -> run_module.Settings:
    parts = {field.name: field.type() for field in dataclasses.fields(run_module.Settings) if field.name != "train"}
    return run_module.Settings(train=TrainConfig(output_model_path="m", **train), **parts)


def test_after_a_failed_capture_the_command_starts_again_without_graphs(monkeypatch, capsys):
    started = []

    def fail(*_):
        raise CaptureError("RuntimeError: a value is read back")

    monkeypatch.setattr(run_module.launch, "run", fail)
    monkeypatch.setattr(run_module.os, "execv", lambda program, arguments: started.append(arguments))
    monkeypatch.setattr(run_module.sys, "orig_argv", ["python3", "-u", "pretrain.py", "--total_steps", "5"])
    run_module.run(settings_of())
    assert started == [[sys.executable, "-u", "pretrain.py", "--total_steps", "5", "--cuda_graph", "off"]]
    assert "cannot be captured as a CUDA graph (RuntimeError: a value is read back)" in capsys.readouterr().err
    monkeypatch.setattr(run_module, "graph_problems", lambda settings: [])
    with pytest.raises(UserError, match=r"a value is read back.*--cuda_graph off does without it"):
        run_module.run(settings_of(cuda_graph="on"))


def test_graphs_that_are_asked_for_and_cannot_be_are_refused():
    with pytest.raises(UserError, match="--cuda_graph on: this run has no GPU"):
        run_module.run(settings_of(cuda_graph="on"))


def test_only_the_run_holds_the_state_that_a_decay_goes_on_from(tmp_path, monkeypatch):
    """A state is three times as large as the model; the run lets it go once it is loaded."""
    starts = [decay.Start({"step": 5}, tmp_path / "s", resumed=False)]
    held = weakref.ref(starts[0])
    schedule = {"total_steps": 9, "scheduler": "trapezoidal", "warmup": 0.0, "lr_decay": 0.5}
    monkeypatch.setattr(run_module, "open_data", lambda settings: None)
    monkeypatch.setattr(decay, "find_start", lambda *_: starts.pop())
    monkeypatch.setattr(decay, "decay_schedule", lambda *_: dict(schedule))

    def train(run):
        assert run.start is held() and run.config.total_steps == 9 and run.settings.optim.lr_decay == 0.5
        run.start = None
        gc.collect()
        return 0 if held() is None else 1

    monkeypatch.setattr(run_module.Run, "train", train)
    settings = settings_of(decay_from=str(tmp_path / "s"), decay_steps=4)
    settings = dataclasses.replace(settings, train=dataclasses.replace(settings.train,
                                                                       output_model_path=str(tmp_path / "m")))
    assert run_module.pretrain(RankInfo(), settings) == 0
