"""TensorFlow's checkpoint files of version 2, read and written without TensorFlow.

    model.ckpt.index                  an SSTable (the table format of LevelDB): name -> where the tensor's bytes are
    model.ckpt.data-00000-of-00001    the tensors' bytes, one after the other, little-endian, rows first

The table's blocks end with a type byte and a checksum; the last 48 bytes of the file tell where the index of the blocks
is. The name "" has a BundleHeaderProto and every other name a BundleEntryProto, of which these fields matter:

    BundleHeaderProto   1 num_shards, 2 endianness (1 is big), 3 version {1 producer}
    BundleEntryProto    1 dtype, 2 shape {2 dim {1 size}}, 3 shard_id, 4 offset, 5 size, 6 crc32c, 7 slices

Every checksum is compared; no code in a file is run.
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from uer.checkpoint.crc32c import crc32c, masked
from uer.errors import UserError
from uer.files import atomic_path
from uer.reading import read_bytes, require_regular

MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # bytes
LARGEST_INDEX = 1 << 27  # bytes; that of BERT has 10,000
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "<u1", 5: "<i2", 6: "<i1", 9: "<i8", 10: "|b1", 19: "<f2"}
RESTART_INTERVAL = 16  # entries between two positions where a reader may begin

Fields = dict[int, list[int | bytes]]


@dataclass(frozen=True)
class Entry:
    """Where a tensor is, and what."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


class _Damaged(ValueError):
    """What is wrong with the bytes."""


def read_tensorflow(path: str | os.PathLike, wanted: Callable[[str], bool] = lambda name: True
                    ) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by their names, in the order of the names.

    Args:
        path: as `index_path`.
        wanted: which names are read; the slots of an optimizer are twice as large as the model.

    Raises:
        UserError: a file is missing, damaged, or not TensorFlow's, or has a kind of tensor that is not known.
    """
    index = index_path(path)
    header, entries = _read_index(index)
    return {name: _read_tensor(index, header, name, entry) for name, entry in entries.items() if wanted(name)}


def write_tensorflow(tensors: Mapping[str, np.ndarray], prefix: str | os.PathLike) -> None:
    """Write `<prefix>.index` and `<prefix>.data-00000-of-00001`, each whole or not at all, the index last.

    Args:
        tensors: arrays of a type in `DTYPES`, by names that are not empty.
    """
    kinds = {np.dtype(name): number for number, name in DTYPES.items()}
    entries, offset = {b"": _field(1, 1) + _field(3, _field(1, 1))}, 0
    with atomic_path(f"{prefix}.index") as index, atomic_path(_data_path(Path(f"{prefix}.index"), 0, 1)) as data:
        with data.open("wb") as file:
            for name, array in sorted(tensors.items()):
                content = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
                file.write(content)
                shape = b"".join(_field(2, _field(1, size)) for size in array.shape)
                crc = struct.pack("<BI", 6 << 3 | 5, masked(crc32c(content)))
                entries[name.encode()] = (_field(1, kinds[array.dtype]) + _field(2, shape) + _field(4, offset)
                                          + _field(5, len(content)) + crc)
                offset += len(content)
        index.write_bytes(_table(entries))


def index_path(path: str | os.PathLike) -> Path:
    """The .index file of a checkpoint.

    Args:
        path: the checkpoint's prefix such as `bert_model.ckpt`, its .index file, or a folder with one checkpoint.

    Raises:
        UserError: there is none, or there are several.
    """
    path = Path(path)
    if not path.is_dir():
        return path if path.name.endswith(".index") else path.with_name(path.name + ".index")
    found = sorted(path.glob("*.index"))
    if len(found) != 1:
        raise UserError(f"{path}: holds " + (f"several checkpoints: {', '.join(file.stem for file in found)}"
                                             if found else "no checkpoint of TensorFlow (no file ends with .index)"))
    return found[0]


def _data_path(index: Path, shard: int, shards: int) -> Path:
    return index.with_name(f"{index.stem}.data-{shard:05d}-of-{shards:05d}")


def _read_index(path: Path) -> tuple[Fields, dict[str, Entry]]:
    """The header, and the entry of each name."""
    content = read_bytes(path, most=LARGEST_INDEX)
    try:
        rows = dict(_rows(content))
        header = _fields(rows.pop(b"", b""))
        if not _number(header, 1):
            raise _Damaged("it has no header")
        if _number(header, 2):
            raise _Damaged("its numbers are big-endian")
        return header, {name.decode(): _entry(name, value) for name, value in sorted(rows.items())}
    except (_Damaged, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not the index of a TensorFlow checkpoint, or a damaged one: {error}") from None


def _entry(name: bytes, value: bytes) -> Entry:
    fields = _fields(value)
    if 7 in fields:
        raise _Damaged(f"{name.decode()} is stored in slices, which are not supported")
    shape = tuple(_number(_fields(dim), 1) for dim in _fields(_bytes(fields, 2)).get(2, ()))
    return Entry(_number(fields, 1), shape, _number(fields, 3), _number(fields, 4), _number(fields, 5),
                 _number(fields, 6))


def _read_tensor(index: Path, header: Fields, name: str, entry: Entry) -> np.ndarray:
    path = _data_path(index, entry.shard, _number(header, 1))
    if entry.dtype not in DTYPES:
        raise UserError(f"{index}: {name} is of TensorFlow's type {entry.dtype}, which is not supported")
    dtype = np.dtype(DTYPES[entry.dtype])
    if np.prod(entry.shape, dtype=object) * dtype.itemsize != entry.size:
        raise UserError(f"{index}: damaged: {name} has shape {list(entry.shape)} but {entry.size:,} bytes")
    if entry.offset + entry.size > require_regular(path):
        raise UserError(f"{path}: cut off: {name} ends at byte {entry.offset + entry.size:,}")
    content = np.fromfile(path, np.uint8, entry.size, offset=entry.offset)
    if masked(crc32c(content)) != entry.crc:
        raise UserError(f"{path}: damaged: {name} does not have its checksum")
    return content.view(dtype).reshape(entry.shape)


# The table of blocks.


def _rows(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table."""
    if len(content) < FOOTER or int.from_bytes(content[-8:], "little") != MAGIC:
        raise _Damaged("its last bytes are not those of such a file")
    _, at = _handle(content, len(content) - FOOTER)  # of the block of metadata, which is empty
    (start, size), _ = _handle(content, at)
    for _, value in _block(content, start, size):
        (start, size), _ = _handle(value, 0)
        yield from _block(content, start, size)


def _block(content: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a block; a key is as many bytes of the key before it as it shares, and its own."""
    block, kind = content[start:start + size], content[start + size:start + size + 1]
    stored = content[start + size + 1:start + size + 5]
    if len(stored) < 4 or size < 4:
        raise _Damaged("it is cut off")
    if masked(crc32c(block + kind)) != int.from_bytes(stored, "little"):
        raise _Damaged("a block does not have its checksum")
    if kind != b"\0":
        raise _Damaged("it is compressed, which is not supported")
    at, end, key = 0, size - 4 * (1 + int.from_bytes(block[-4:], "little")), b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + own + length > end:
            raise _Damaged("an entry is longer than its block")
        key = key[:shared] + block[at:at + own]
        yield key, block[at + own:at + own + length]
        at += own + length


def _handle(content: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Where a block starts and its size; and where the next byte is."""
    start, at = _varint(content, at)
    size, at = _varint(content, at)
    return (start, size), at


def _table(entries: Mapping[bytes, bytes]) -> bytes:
    """A table of one block of entries."""
    content, handles = b"", []

    def add(rows: Mapping[bytes, bytes]) -> bytes:
        nonlocal content
        block = _packed_block(rows)
        handle = _packed_varint(len(content)) + _packed_varint(len(block))
        content += block + b"\0" + struct.pack("<I", masked(crc32c(block + b"\0")))
        return handle

    data = add(dict(sorted(entries.items())))
    handles = [add({}), add({max(entries): data})]
    return content + b"".join(handles).ljust(FOOTER - 8, b"\0") + struct.pack("<Q", MAGIC)


def _packed_block(rows: Mapping[bytes, bytes]) -> bytes:
    """The bytes of a block whose keys share nothing, with the positions where a reader may begin."""
    content, restarts = bytearray(), [0]
    for number, (key, value) in enumerate(rows.items()):
        if number and number % RESTART_INTERVAL == 0:
            restarts.append(len(content))
        content += _packed_varint(0) + _packed_varint(len(key)) + _packed_varint(len(value)) + key + value
    return bytes(content) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


# Protocol buffers: a message is fields, each a number with its wire type, and a value.


def _fields(message: bytes) -> Fields:
    """The values of each field, as unsigned numbers or bytes."""
    found: Fields = {}
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        value, at = _value(message, at, key & 7)
        found.setdefault(key >> 3, []).append(value)
    return found


def _value(message: bytes, at: int, wire_type: int) -> tuple[int | bytes, int]:
    if wire_type == 0:
        return _varint(message, at)
    if wire_type not in (1, 2, 5):
        raise _Damaged("a message has a field of an unknown kind")
    length, at = _varint(message, at) if wire_type == 2 else ({1: 8, 5: 4}[wire_type], at)
    value = message[at:at + length]
    if len(value) < length:
        raise _Damaged("a message is cut off")
    return value if wire_type == 2 else int.from_bytes(value, "little"), at + length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number in groups of 7 bits, the lowest first, the highest bit of a byte set where more follow."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise _Damaged("it is cut off")
        value |= (content[at] & 127) << shift
        at += 1
        if content[at - 1] < 128:
            return value, at
    raise _Damaged("a number has more than 64 bits")


def _number(fields: Fields, number: int) -> int:
    """The last value of a field, 0 where it is left out."""
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise _Damaged(f"field {number} of a message is no number")
    return value


def _bytes(fields: Fields, number: int) -> bytes:
    value = fields.get(number, [b""])[-1]
    if not isinstance(value, bytes):
        raise _Damaged(f"field {number} of a message is a number")
    return value


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _packed_varint(number << 3) + _packed_varint(value)
    return _packed_varint(number << 3 | 2) + _packed_varint(len(value)) + value


def _packed_varint(value: int) -> bytes:
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])
