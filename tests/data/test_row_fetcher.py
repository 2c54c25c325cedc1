"""Rows of stored instances: from the mapped file and from a copy with room behind it, the same."""

import numpy as np
import pytest
import torch

from uer.data.row_fetcher import RowFetcher, copied_bytes, open_fetchers, widened
from uer.data.schema import INSTANCE, Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, open_dataset, save_dataset

LENGTH = 7
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


@pytest.mark.parametrize("vocab_size", [65536, 70000])
@pytest.mark.parametrize("lengths", [[3, 7, 1, 5, 2], [2]])
def test_mapped_and_copied_rows_are_the_stored_instances(lengths, vocab_size, tmp_path):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = vocab_size - 1 - np.arange(offsets[-1])
    schema = {"src": Column(), "word_start": Column(dtype="uint8"), "label": Column(INSTANCE, "uint16")}
    info = DatasetInfo(FORMAT_VERSION, "mlm", LENGTH, schema, {"src": LENGTH},
                       {"src": VocabInfo("", vocab_size, SPECIAL)})
    label = 65535 - np.arange(len(lengths))
    save_dataset(tmp_path / "a.pt", info,
                 {"src": tokens, "word_start": np.arange(len(tokens)) % 2 == 0, "label": label}, {"src": offsets})
    dataset = open_dataset(tmp_path / "a.pt")
    mapped, copied = (RowFetcher(dataset, list(schema), torch.device("cpu"), mapped=mapped) for mapped in (True, False))
    order = torch.arange(len(lengths)).flip(0)
    for rows in (mapped, copied):
        columns, found = rows.fetch(order)
        assert found["src"].tolist() == lengths[::-1] and columns["src"].shape == (len(lengths), LENGTH)
        assert widened(columns["label"]).tolist() == label[::-1].tolist()
        for row, instance in enumerate(order.tolist()):
            stop = lengths[instance]
            assert widened(columns["src"][row, :stop]).tolist() == dataset[instance].tolist()
            begin = offsets[instance]
            assert columns["word_start"][row, :stop].tolist() == [(begin + i) % 2 == 0 for i in range(stop)]


def test_two_sequences_have_lengths_and_vocabularies_of_their_own(tmp_path):
    schema = {"src": Column(), "tgt": Column("tgt", vocab="other"), "mark": Column("tgt", "uint8")}
    info = DatasetInfo(FORMAT_VERSION, "mlm", LENGTH, schema, {"src": LENGTH, "tgt": 3},
                       {"src": VocabInfo("", 300, SPECIAL), "other": VocabInfo("", 70000, SPECIAL)})
    save_dataset(tmp_path / "a.pt", info, {"src": np.arange(9), "tgt": 69999 - np.arange(5), "mark": np.arange(5)},
                 {"src": np.array([0, 2, 9]), "tgt": np.array([0, 3, 5])})
    dataset = open_dataset(tmp_path / "a.pt")
    assert dataset.sequence(1, "tgt").tolist() == [69996, 69995] and dataset.tokens_num == 14
    for mapped in (True, False):
        columns, lengths = RowFetcher(dataset, list(schema), torch.device("cpu"), mapped).fetch(torch.tensor([1, 0]))
        assert (lengths["src"].tolist(), lengths["tgt"].tolist()) == ([7, 2], [2, 3])
        assert columns["src"].shape == (2, LENGTH) and columns["tgt"].shape == columns["mark"].shape == (2, 3)
        assert columns["src"][0].tolist() == [2, 3, 4, 5, 6, 7, 8]
        assert widened(columns["tgt"][0, :2]).tolist() == [69996, 69995]
        assert columns["mark"][1].tolist() == [0, 1, 2]


def test_the_bytes_of_copies_are_known_before_they_are_made(tmp_path):
    """Of 9 source tokens and 5 target tokens: 2 and 4 bytes each, with room behind them, 1 byte a mark, 2 a label; of
    the offsets of each sequence, 2 bytes an instance and one more, and a block of 8 bytes. Each file is counted once,
    and columns that nobody reads are not."""
    schema = {"src": Column(), "tgt": Column("tgt", vocab="other"), "mark": Column("tgt", "uint8"),
              "label": Column(INSTANCE, "uint16")}
    info = DatasetInfo(FORMAT_VERSION, "mlm", LENGTH, schema, {"src": LENGTH, "tgt": 3},
                       {"src": VocabInfo("", 300, SPECIAL), "other": VocabInfo("", 70000, SPECIAL)})
    columns = {"src": np.arange(9), "tgt": np.arange(5), "mark": np.arange(5), "label": np.arange(2)}
    for name in ("a.pt", "b.pt"):
        save_dataset(tmp_path / name, info, columns, {"src": np.array([0, 2, 9]), "tgt": np.array([0, 3, 5])})
    datasets = [open_dataset(tmp_path / name) for name in ("a.pt", "b.pt", "a.pt")]
    for names, expected in ((list(schema), 2 * (9 + 7) + 4 * (5 + 3) + (5 + 3) + 2 * 2), (["src"], 2 * (9 + 7)),
                            (["src", "word_start"], 2 * (9 + 7))):  # one that these files do not have
        fetchers = open_fetchers(datasets, names, "cpu", mapped=False).values()
        held = [tensor for each in fetchers for part in (each, *each._begins.values())
                for tensor in (part.columns.values() if part is each else (part.block_starts, part.starts))]
        assert sum(tensor.nbytes for tensor in held) == copied_bytes(datasets, names)
        assert copied_bytes(datasets, names) == 2 * (expected + 2 * (2 * 3 + 8))
