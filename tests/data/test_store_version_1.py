"""Dataset files of format version 1: written here byte by byte as that version did, they still open and train."""

import dataclasses
import json
import struct

import numpy as np
import pytest
import torch

from uer.config import MaskingConfig
from uer.data.loader import Loader, open_processor
from uer.data.processors.mlm import MlmConfig
from uer.data.schema import Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, open_dataset, save_dataset
from uer.errors import UserError

SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
TOKENIZER = {"kind": "bert", "do_lower_case": "true"}
ROWS = [[2, 7, 8, 9, 3], [2, 10, 11, 3], [2, 12, 13, 14, 15, 16, 3], [17, 3]]
TOKENS = [token for row in ROWS for token in row]
OFFSETS = [0, 5, 9, 16, 18]
WORD_START = [1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1]
SHIFT = 1  # every second offset is kept whole: 0, 9 and 18


def write_version_1(path, words: bool, dynamic: bool = True) -> None:
    """The header is JSON behind its length; the columns follow in falling size of their type."""
    columns = [("block_starts", "I64", struct.pack("<3q", 0, 9, 18)),
               ("starts", "U16", struct.pack("<5H", 0, 5, 0, 7, 0)),
               ("tokens", "U16", struct.pack("<18H", *TOKENS)),
               *([("word_start", "U8", bytes(WORD_START))] if words else [])]
    masking = {"whole_word_masking": words, "span_masking": False, "span_geo_prob": 0.2, "span_max_length": 10}
    facts = {"format_version": 1, "processor": "mlm", "seq_length": 8, "vocab_fingerprint": "ab", "vocab_size": 300,
             "tokenizer": TOKENIZER, "special_ids": SPECIAL, "dynamic_masking": dynamic,
             "dup_factor": 1 if dynamic else 3, "seed": 11, "masking": masking, "counts": {"instances": 4},
             "command": "preprocess.py"}
    header = {"__metadata__": {"format": "uer-dataset", "offsets_shift": str(SHIFT),
                               **{name: json.dumps(value) for name, value in facts.items()}}}
    place, sizes = 0, {"I64": 8, "U16": 2, "U8": 1}
    for name, kind, data in columns:
        header[name] = {"dtype": kind, "shape": [len(data) // sizes[kind]], "data_offsets": [place, place + len(data)]}
        place += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in columns))


@pytest.mark.parametrize("words", [False, True])
def test_it_opens(tmp_path, words):
    write_version_1(tmp_path / "old.pt", words)
    dataset = open_dataset(tmp_path / "old.pt")
    assert [dataset[number].tolist() for number in range(len(dataset))] == ROWS
    assert np.asarray(dataset.offsets["src"]).tolist() == OFFSETS
    assert set(dataset.columns) == set(dataset.info.schema) == {"src", *(["word_start"] if words else [])}
    assert not words or dataset.columns["word_start"].tolist() == WORD_START
    assert dataset.info.vocab == VocabInfo("ab", 300, SPECIAL, TOKENIZER)
    assert (dataset.info.seq_length, dataset.info.lengths, dataset.info.seed) == (8, {"src": 8}, 11)
    assert dataset.info.processor_settings["whole_word_masking"] is words


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("words", [False, True])
def test_it_gives_the_batches_of_a_new_file(tmp_path, words, dynamic):
    write_version_1(tmp_path / "old.pt", words, dynamic)
    schema = {"src": Column(), **({"word_start": Column(dtype="uint8")} if words else {})}
    info = DatasetInfo(FORMAT_VERSION, "mlm", 8, schema, {"src": 8}, {"src": VocabInfo("ab", 300, SPECIAL, TOKENIZER)},
                       dataclasses.asdict(MlmConfig(whole_word_masking=words)), dynamic, 1 if dynamic else 3, 11)
    save_dataset(tmp_path / "new.pt", info, {"src": TOKENS, **({"word_start": WORD_START} if words else {})},
                 {"src": OFFSETS})
    old, new = ([open_dataset(tmp_path / name)] for name in ("old.pt", "new.pt"))
    masking = MaskingConfig(whole_word_masking=words)
    loaders = [Loader(datasets, open_processor(datasets, masking), batch_size=5) for datasets in (old, new)]
    assert loaders[0].samples_per_epoch == loaders[1].samples_per_epoch == (4 if dynamic else 12)
    for step in range(3):
        (one,), (other,) = (loader.step(step) for loader in loaders)
        assert torch.equal(one.src.values, other.src.values) and torch.equal(one.src.seg, other.src.seg)
        assert torch.equal(one.labels["mlm"].values, other.labels["mlm"].values)
        assert torch.equal(one.labels["mlm"].positions, other.labels["mlm"].positions)


def test_damage_is_one_clear_line(tmp_path):
    write_version_1(tmp_path / "old.pt", words=True)
    whole = (tmp_path / "old.pt").read_bytes()
    for cut, message in ((whole[:-1], "truncated"), (whole.replace(b'"vocab_size": "300"', b'"vocab_size": "-30"'),
                                                     "damaged")):
        (tmp_path / "old.pt").write_bytes(cut)
        with pytest.raises(UserError, match=message):
            open_dataset(tmp_path / "old.pt")
