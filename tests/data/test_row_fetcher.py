"""Rows of stored instances: from the mapped file and from a copy with room behind it, the same."""

import numpy as np
import pytest
import torch

from uer.data.row_fetcher import TokenRows, widened
from uer.data.store import DatasetInfo, open_dataset, save_dataset

LENGTH = 7
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


@pytest.mark.parametrize("vocab_size", [65536, 70000])
@pytest.mark.parametrize("lengths", [[3, 7, 1, 5, 2], [2]])
def test_mapped_and_copied_rows_are_the_stored_instances(lengths, vocab_size, tmp_path):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = vocab_size - 1 - np.arange(offsets[-1])
    info = DatasetInfo(1, "mlm", LENGTH, "", vocab_size, {}, SPECIAL, True, 1, 7, {})
    save_dataset(tmp_path / "a.pt", tokens, offsets, {"word_start": np.arange(len(tokens)) % 2 == 0}, info)
    dataset = open_dataset(tmp_path / "a.pt")
    mapped, copied = (TokenRows(dataset, ("word_start",), LENGTH, torch.device("cpu"), mapped=mapped)
                      for mapped in (True, False))
    order = torch.arange(len(lengths)).flip(0)
    for rows in (mapped, copied):
        columns, found = rows.fetch(order)
        assert found.tolist() == lengths[::-1] and columns["tokens"].shape == (len(lengths), LENGTH)
        for row, instance in enumerate(order.tolist()):
            stop = lengths[instance]
            assert widened(columns["tokens"][row, :stop]).tolist() == dataset[instance].tolist()
            begin = offsets[instance]
            assert columns["word_start"][row, :stop].tolist() == [(begin + i) % 2 == 0 for i in range(stop)]
