"""TensorFlow's checkpoint files: bytes put together by hand from the format's description, damage of every byte."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from uer.checkpoint.crc32c import crc32c, masked
from uer.checkpoint.tensorflow import read_tensorflow, write_tensorflow
from uer.errors import UserError

MAGIC = bytes.fromhex("57fb808b247547db")
HEADER = bytes.fromhex("0802 1a02 0801".replace(" ", ""))  # 2 shards, producer 1


def bitwise(data: bytes) -> int:
    """CRC-32C bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def checksum(data: bytes) -> bytes:
    crc = bitwise(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def block(entries: bytes, kind: bytes = b"\0") -> bytes:
    """Entries with one restart point at 0, the type, the checksum."""
    content = entries + bytes.fromhex("0000000001000000") + kind
    return content + checksum(content)


def by_hand(folder: Path, *, header: bytes = HEADER, kind: bytes = b"\0", more: bytes = b"", dtype: int = 1) -> Path:
    """"ab" (2, 1) float32 and "ac" int64 without dimensions, in two blocks and two shards."""
    floats, number = struct.pack("<2f", 1.5, -2.0), struct.pack("<q", 300)
    (folder / "m.data-00000-of-00002").write_bytes(b"xyz" + floats)
    (folder / "m.data-00001-of-00002").write_bytes(number)
    # dtype; shape of 8 bytes: dimensions of 2 and 1; offset 3; size 8; checksum
    ab = bytes([8, dtype]) + bytes.fromhex("1208 12020802 12020801 2003 2808 35".replace(" ", "")) + checksum(floats)
    # dtype 9, an empty shape, shard 1, size 8, checksum
    ac = bytes.fromhex("0809 1200 1801 2808 35".replace(" ", "")) + checksum(number) + more
    first = block(bytes([0, 0, len(header)]) + header + bytes([0, 2, len(ab)]) + b"ab" + ab, kind)
    second = block(bytes([0, 2, len(ac)]) + b"ac" + ac)
    one, two = (0, len(first) - 5), (len(first), len(second) - 5)
    # "ab" ends the first block; the second's key shares one byte with it: 1 shared, 1 own, 2 of the handle
    index = block(bytes([0, 2, 2]) + b"ab" + bytes(one) + bytes([1, 1, 2]) + b"d" + bytes(two))
    meta = block(b"")
    content = first + second + meta + index
    at = len(first) + len(second)
    footer = b"".join(map(varint, (at, len(meta) - 5, at + len(meta), len(index) - 5)))
    path = folder / "m.index"
    path.write_bytes(content + footer.ljust(40, b"\0") + MAGIC)
    return path


def varint(value: int) -> bytes:
    """A number below 2^14."""
    return bytes([value]) if value < 128 else bytes([value % 128 + 128, value // 128])


def test_checksum() -> None:
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(bytes(32)) == 0x8A9136AA  # of RFC 3720
    for size in (0, 1, 2, 3, 31, 64, 65, 1023, 4097):
        data = np.random.default_rng(size).bytes(size)
        assert crc32c(data) == bitwise(data)
    assert masked(crc32c(b"foo")) == int.from_bytes(checksum(b"foo"), "little")


def test_bytes_by_hand(tmp_path: Path) -> None:
    index = by_hand(tmp_path)
    for path in (index, tmp_path / "m", tmp_path):
        found = read_tensorflow(path)
        assert list(found) == ["ab", "ac"] and found["ab"].dtype == np.float32 and found["ac"].dtype == np.int64
        assert found["ab"].tolist() == [[1.5], [-2.0]] and found["ac"].shape == () and found["ac"] == 300
    assert list(read_tensorflow(index, lambda name: name == "ac")) == ["ac"]


def test_there_and_back(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    arrays = {f"layer_{number}/kernel": generator.normal(size=(number, 3)).astype(kind)
              for number, kind in enumerate(("f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "?") * 5)}
    write_tensorflow({"turned": arrays["layer_9/kernel"].T, **arrays}, tmp_path / "m.ckpt")
    found = read_tensorflow(tmp_path / "m.ckpt")
    assert found.pop("turned").tolist() == arrays["layer_9/kernel"].T.tolist()
    assert list(found) == sorted(arrays)
    assert all(found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes()
               and found[name].shape == array.shape for name, array in arrays.items())


def test_no_damaged_byte_and_no_cut_gives_other_numbers(tmp_path: Path) -> None:
    """What is not read (a block of metadata, the padding before the last 8 bytes) may be anything."""
    write_tensorflow({"w": np.ones((2, 2), np.float32)}, tmp_path / "m")
    index, noticed = tmp_path / "m.index", 0
    for path in (index, tmp_path / "m.data-00000-of-00001"):
        content = path.read_bytes()
        for at in range(0, len(content), 2):
            path.write_bytes(content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1:])
            try:
                assert read_tensorflow(index)["w"].tolist() == [[1, 1], [1, 1]]
            except UserError:
                noticed += 1
            path.write_bytes(content[:at])
            with pytest.raises(UserError, match=r"damaged|cut off"):
                read_tensorflow(index)
        path.write_bytes(content)
    assert noticed > 40 and read_tensorflow(index)["w"].sum() == 4


@pytest.mark.parametrize(("settings", "message"), [
    ({"header": HEADER + b"\x10\x01"}, "big-endian"), ({"header": b""}, "no header"), ({"kind": b"\1"}, "compressed"),
    ({"more": b"\x3a\x00"}, "ac is stored in slices"), ({"dtype": 7}, "ab is of TensorFlow's type 7"),
    ({"dtype": 2}, r"ab has shape \[2, 1\] but 8 bytes"), ({"more": b"\x0b"}, "unknown kind"),
    ({"more": b"\x2a\x01x"}, "no number")])
def test_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_tensorflow(by_hand(tmp_path, **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "message"), [
    (lambda folder: (folder / "m.data-00001-of-00002").unlink(), "m.data-00001-of-00002: No such file"),
    (lambda folder: (folder / "m.index").unlink(), "no checkpoint of TensorFlow"),
    (lambda folder: (folder / "n.index").touch(), "several checkpoints: m, n"),
    (lambda folder: (folder / "m.index").write_bytes(b"PK" * 99), "not the index of a TensorFlow checkpoint"),
])
def test_what_the_folder_holds(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    by_hand(tmp_path)
    change(tmp_path)
    with pytest.raises(UserError, match=message):
        read_tensorflow(tmp_path)
