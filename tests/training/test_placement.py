"""Where a run's datasets are: on the GPU if all columns that are read, of all files, fit its share of the memory."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from uer.data.row_fetcher import copied_bytes
from uer.data.schema import Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, open_dataset, save_dataset
from uer.training import run as run_module

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
    free = needed / run_module.FRACTION_FOR_DATA + (1 if fits else -1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr(run_module, "open_fetchers", lambda datasets, columns, device: (datasets, columns, str(device)))
    run = SimpleNamespace(world=SimpleNamespace(device=torch.device("cuda")), data=data, static=True,
                          config=SimpleNamespace(dataset_device="auto"))
    opened = run_module.Run._placement(run, reads_padding=False)["fetchers"]
    assert opened == (train + dev, ["src"], "cuda" if fits else "cpu")
