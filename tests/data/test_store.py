"""The dataset file: round trips, other readers, and every way in which a file can be wrong."""

import dataclasses
import json
import struct

import numpy as np
import pytest

from uer.data import store
from uer.data.schema import INSTANCE, Column, VocabInfo
from uer.data.store import DatasetInfo, StreamedColumn, open_dataset, save_dataset, write_dataset
from uer.errors import UserError
from uer.tokenizers.base import token_dtype

SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
SCHEMA = {"src": Column(), "word_start": Column(dtype="uint8"), "label": Column(INSTANCE, "uint8")}
VOCAB = VocabInfo("ab", 300, SPECIAL, {"kind": "bert"})
INFO = DatasetInfo(format_version=store.FORMAT_VERSION, processor="mlm", seq_length=8, schema=SCHEMA,
                   lengths={"src": 8}, vocabs={"src": VOCAB}, processor_settings={"span_masking": False},
                   dynamic_masking=True, dup_factor=1, seed=7, counts={"instances": 3}, command="preprocess.py 北京")
TOKENS = np.arange(11) * 20
OFFSETS = np.array([0, 3, 3, 11])
WORD_START = np.arange(11) % 2 == 0
LABEL = np.array([2, 0, 1], np.uint8)


@pytest.fixture
def path(tmp_path):
    save_dataset(tmp_path / "a.pt", INFO, {"src": TOKENS, "word_start": WORD_START, "label": LABEL}, {"src": OFFSETS})
    return tmp_path / "a.pt"


def test_what_was_saved_is_what_is_opened(path):
    dataset = open_dataset(path)
    assert dataset.info == INFO
    assert len(dataset) == 3
    assert dataset.tokens.dtype == np.uint16 and np.array_equal(dataset.tokens, TOKENS)
    assert np.array_equal(dataset.offsets["src"], OFFSETS)
    assert np.array_equal(dataset.columns["word_start"], WORD_START)
    assert np.array_equal(dataset.columns["label"], LABEL)
    assert [dataset[i].tolist() for i in range(3)] == [[0, 20, 40], [], TOKENS[3:].tolist()]
    with pytest.raises(IndexError):
        dataset[3]


def test_any_safetensors_reader_opens_it(path):
    safetensors = pytest.importorskip("safetensors.numpy")
    columns = safetensors.load_file(path)
    assert np.array_equal(columns["src"], TOKENS)
    assert np.array_equal(columns["src.block_starts"][0] + columns["src.starts"], OFFSETS)


def test_columns_are_aligned_for_their_type(path):
    header, start = store._read_header(path)
    assert start % 8 == 0
    for entry in (header[name] for name in ("src.block_starts", "src.starts", "src")):
        assert entry["data_offsets"][0] % np.dtype(store.NUMPY_NAMES[entry["dtype"]]).itemsize == 0


@pytest.mark.parametrize(("entries", "dtype"), [(5, np.uint16), (65536, np.uint16), (65537, np.uint32)])
def test_tokens_take_the_smallest_type_that_holds_every_id(entries, dtype, tmp_path):
    assert token_dtype(entries) == dtype
    info = dataclasses.replace(INFO, schema={"src": Column()}, vocabs={"src": VocabInfo("ab", entries, SPECIAL)})
    save_dataset(tmp_path / "b.pt", info, {"src": np.array([entries - 1])}, {"src": np.array([0, 1])})
    assert open_dataset(tmp_path / "b.pt").tokens.tolist() == [entries - 1]


def test_streaming_writes_the_same_bytes(path, tmp_path):
    columns = {
        "src": StreamedColumn(np.dtype(np.uint16), 11,
                              iter([TOKENS[:4].astype(np.uint16), TOKENS[4:].astype(np.uint16)])),
        "word_start": StreamedColumn(np.dtype(np.uint8), 11, iter([WORD_START.view(np.uint8)])),
        "label": StreamedColumn(np.dtype(np.uint8), 3, iter([LABEL])),
    }
    offsets = {"src": StreamedColumn(np.dtype(np.int64), 4, iter([OFFSETS[:1], OFFSETS[1:]]))}
    write_dataset(tmp_path / "b.pt", INFO, columns, offsets)
    assert (tmp_path / "b.pt").read_bytes() == path.read_bytes()


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(path, tmp_path):
    before = path.read_bytes()

    def broken():
        yield TOKENS.astype(np.uint16)
        raise OSError(28, "No space left on device")

    columns = {"src": StreamedColumn(np.dtype(np.uint16), 22, broken())}
    with pytest.raises(OSError, match="No space"):
        write_dataset(path, dataclasses.replace(INFO, schema={"src": Column()}), columns,
                      {"src": StreamedColumn(np.dtype(np.int64), 4, [OFFSETS])})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_every_truncation_is_one_clear_line(path):
    whole = path.read_bytes()
    for length in [*range(24), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError) as caught:
            open_dataset(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_longer_file_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match="truncated or damaged"):
        open_dataset(path)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "not a dataset"), (b"some text, longer than eight bytes", "not a dataset"),
    (b"\x80\x04\x95 a pickle of the original", "original UER-py"),
    (struct.pack("<Q", 2) + b"[]", "not a dataset"), (struct.pack("<Q", 2) + b"{}", "not a dataset made by"),
    (struct.pack("<Q", 4) + b"{\xff\xff}", "not a dataset"),
])
def test_foreign_files_are_refused(content, message, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path / "x")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="made by preprocess"):
            open_dataset(path)


def _with_header(path, change):
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length:])


@pytest.mark.parametrize(("change", "message"), [
    (lambda header: header["__metadata__"].update(format_version="99"), "version 99"),
    (lambda header: header["__metadata__"].pop("seed"), "metadata is damaged"),
    (lambda header: header["__metadata__"].update(seed="{"), "metadata is damaged"),
    (lambda header: header["__metadata__"].update(format="other"), "not a dataset made by"),
    (lambda header: header.pop("src"), "header is damaged"),
    (lambda header: header["src"].update(dtype="F32"), "header is damaged"),
    (lambda header: header["src"].update(shape=[10]), "header is damaged"),
    (lambda header: header["src"].update(data_offsets=[0, 1]), "header is damaged"),
    (lambda header: header["__metadata__"].update(offsets_shift='{"src": 0}'), "header is damaged"),
    (lambda header: header["__metadata__"].pop("offsets_shift"), "header is damaged"),
    (lambda header: header.update(src=7), "header is damaged"),
    (lambda header: header["label"].update(shape=[2]), "header is damaged"),
])
def test_damaged_headers_are_refused(path, change, message):
    _with_header(path, change)
    with pytest.raises(UserError, match=message):
        open_dataset(path)


def test_offsets_that_do_not_fit_the_tokens_are_refused(tmp_path):
    save_dataset(tmp_path / "c.pt", dataclasses.replace(INFO, schema={"src": Column()}), {"src": TOKENS},
                 {"src": np.array([0, 3, 10])})
    with pytest.raises(UserError, match="do not fit together"):
        open_dataset(tmp_path / "c.pt")
