"""The dataset file: columns of tokens in the safetensors format, opened by memory mapping.

This is format version 1; everything in the file is little-endian. Whatever reads safetensors reads it:

    8 bytes   length of the header, uint64
    header    JSON, filled up with spaces to a multiple of 8: dtype, shape and place of each column, and `__metadata__`
    columns   one after another in falling size of their type, each one-dimensional

The metadata are strings: `format` ("uer-dataset"), `offsets_shift` (a whole number), and each field of `DatasetInfo` as
JSON; `format_version` is one of them, and a reader refuses a version it does not know. The columns, for N instances:

    tokens        uint16, or uint32 where the vocabulary has over 65,536 entries: the token ids of all instances, one
                  instance after another, without padding
    starts        uint16 (N + 1) and
    block_starts  int64 (N // 2^offsets_shift + 1): where instances begin in `tokens`. Instance i is
                  tokens[offset(i):offset(i + 1)] with offset(i) = block_starts[i >> offsets_shift] + starts[i]
    others        what a processor adds: one value a token, such as `word_start` (uint8, 1 where a token begins a word),
                  or one value an instance

Masks are not in the file: they are made while training (`uer.data.masking`). No torch here: `preprocess.py` has to
start fast.
"""

import contextlib
import dataclasses
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from uer.config import MaskingConfig
from uer.data.packed_offsets import Offsets, block_shift, pack
from uer.errors import UserError
from uer.files import atomic_path
from uer.json_files import json_text, parse_json
from uer.reading import require_regular

FORMAT = "uer-dataset"
FORMAT_VERSION = 1  # goes up with every change to what the docstring above says
MAX_HEADER_BYTES = 1 << 24
SAFETENSORS_NAMES = {"int64": "I64", "uint32": "U32", "uint16": "U16", "uint8": "U8"}
SPECIAL_ROLES = ("pad", "unk", "cls", "sep", "mask")
INFO_KINDS = {"processor": str, "seq_length": int, "vocab_fingerprint": str, "vocab_size": int, "tokenizer": dict,
              "special_ids": dict, "dynamic_masking": bool, "dup_factor": int, "seed": int, "masking": dict,
              "counts": dict, "command": str}
NUMPY_NAMES = {short: name for name, short in SAFETENSORS_NAMES.items()}


@dataclass(frozen=True)
class DatasetInfo:
    """The file's metadata: what made it, and what a training run must agree with."""

    format_version: int
    processor: str
    seq_length: int
    vocab_fingerprint: str
    vocab_size: int
    tokenizer: dict[str, Any]
    special_ids: dict[str, int]
    """Token id of "pad", "unk", "cls", "sep" and "mask"."""
    dynamic_masking: bool
    dup_factor: int
    seed: int
    masking: dict[str, Any]
    """whole_word_masking, span_masking, span_geo_prob, span_max_length."""
    counts: dict[str, int] = field(default_factory=dict)
    """What the corpus held and the file holds: documents, blank_lines, instances, tokens, ..."""
    command: str = ""


@dataclass(frozen=True)
class TokenDataset:
    """An open dataset; the arrays are views of the mapped file."""

    path: Path
    info: DatasetInfo
    tokens: np.ndarray
    offsets: Offsets
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        """Stored instances (static masking trains on `info.dup_factor` versions of each)."""
        return len(self.offsets) - 1

    def __getitem__(self, instance: int) -> np.ndarray:
        """The tokens of one instance, without padding."""
        if not 0 <= instance < len(self):
            raise IndexError(instance)
        return self.tokens[self.offsets[instance]:self.offsets[instance + 1]]


@dataclass(frozen=True)
class Column:
    """A column to be written: its whole length, and its values piece by piece."""

    dtype: np.dtype
    length: int
    pieces: Iterable[np.ndarray]


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id: 65536 -> uint16, 65537 -> uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def open_dataset(path: str | os.PathLike) -> TokenDataset:
    """Map a dataset into memory; costs the same for a file of any size.

    Raises:
        UserError: the file is missing, truncated, foreign, or of another format version.
    """
    path = Path(path)
    header, data_start = _read_header(path)
    metadata = header.pop("__metadata__", None)
    info = _read_info(path, metadata)
    try:
        places = {name: (np.dtype(NUMPY_NAMES[entry["dtype"]]), *entry["shape"], *entry["data_offsets"])
                  for name, entry in header.items()}
        end = max(stop for _, _, _, stop in places.values())
        size = path.stat().st_size
        if data_start + end != size:
            raise UserError(f"{path}: the dataset is truncated or damaged: it should have {data_start + end} bytes "
                            f"and has {size}; run preprocess.py again")
        mapped = np.asarray(np.memmap(path, np.uint8, mode="r"))[data_start:]
        arrays = {name: mapped[start:stop].view(dtype) for name, (dtype, _, start, stop) in places.items()}
        if any(len(arrays[name]) != length for name, (_, length, _, _) in places.items()):
            raise ValueError("a column's shape does not match its size")
        return _assemble(path, info, arrays, int(metadata["offsets_shift"]))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: the dataset's header is damaged ({error}); run preprocess.py again") from None


def is_dataset(path: str | os.PathLike) -> bool:
    """Whether a whole dataset of this format lies there."""
    try:
        open_dataset(path)
    except UserError:
        return False
    return True


def write_dataset(path: str | os.PathLike, info: DatasetInfo, columns: Mapping[str, Column]) -> None:
    """Stream columns into a dataset file, which appears under its name when it is whole.

    Args:
        columns: "offsets" (int64), "tokens" and a processor's own, in any order. No instance may be longer than
            `info.seq_length`.
    """
    shift = block_shift(info.seq_length)
    packed = _with_packed_offsets(columns, shift)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        header, places = _header(info, shift, packed)
        file.write(header)
        for name, column in packed.items():
            file.seek(len(header) + places[name])
            written = 0
            for piece in column.pieces:
                assert piece.dtype == column.dtype, f"column {name}: {piece.dtype} is not {column.dtype}"
                file.write(np.ascontiguousarray(piece).data)
                written += len(piece)
            assert written == column.length, f"column {name}: {written} values, not {column.length}"


def _with_packed_offsets(columns: Mapping[str, Column], shift: int) -> dict[str, Column]:
    """`block_starts` and `starts` in place of `offsets`; the former are known when the latter have been streamed."""
    offsets = columns["offsets"]
    blocks: list[np.ndarray] = []
    return {"starts": Column(np.dtype(np.uint16), offsets.length, pack(offsets.pieces, shift, blocks)),
            "block_starts": Column(np.dtype(np.int64), ((offsets.length - 1) >> shift) + 1, blocks),
            **{name: column for name, column in columns.items() if name != "offsets"}}


def save_dataset(path: str | os.PathLike, tokens: np.ndarray, offsets: np.ndarray, columns: Mapping[str, np.ndarray],
                 info: DatasetInfo) -> None:
    """Write a dataset that is in memory.

    Args:
        tokens: (tokens,) token ids of all instances, one after another.
        offsets: (instances + 1,) where each instance begins.
        columns: further columns, (tokens,) or (instances,), of unsigned integers or booleans.
    """
    dtype = token_dtype(info.vocab_size)
    arrays = {"offsets": np.asarray(offsets, np.int64), "tokens": np.asarray(tokens).astype(dtype)}
    for name, values in columns.items():
        arrays[name] = values.view(np.uint8) if values.dtype == bool else values
    write_dataset(path, info, {name: Column(array.dtype, len(array), [array]) for name, array in arrays.items()})


def _header(info: DatasetInfo, shift: int, columns: Mapping[str, Column]) -> tuple[bytes, dict[str, int]]:
    """-> (the first bytes of the file, where each column begins behind them).

    The columns begin at a multiple of 8 and come in falling size of their type: each is aligned.
    """
    metadata = {name: json_text(value, sort_keys=True)
                for name, value in dataclasses.asdict(info).items()}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "offsets_shift": str(shift), **metadata}}
    places: dict[str, int] = {}
    end = 0
    for name, column in sorted(columns.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        places[name] = end
        end += column.length * column.dtype.itemsize
        header[name] = {"dtype": SAFETENSORS_NAMES[column.dtype.name], "shape": [column.length],
                        "data_offsets": [places[name], end]}
    encoded = json_text(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded, places


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """-> (the header, where the columns begin)."""
    try:
        size = require_regular(path)
        with open(path, "rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            content = file.read(length) if 0 < length <= MAX_HEADER_BYTES else b""
    except UserError as error:
        raise UserError(f"{error}; datasets are made by preprocess.py") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; datasets are made by preprocess.py") from None
    if content and 8 + length > size:
        raise UserError(f"{path}: the dataset is truncated or damaged; run preprocess.py again")
    header = None
    if content:
        with contextlib.suppress(UserError):  # it may be a file of any kind
            header = parse_json(content, path)
    if not isinstance(header, dict):
        raise UserError(f"{path}: not a dataset made by this preprocess.py"
                        + ("; the original UER-py's datasets have to be made anew" if start[:1] == b"\x80" else ""))
    return header, 8 + length


def _read_info(path: Path, metadata: Any) -> DatasetInfo:
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(f"{path}: a safetensors file, but not a dataset made by preprocess.py")
    version = metadata.get("format_version")
    if version != str(FORMAT_VERSION):
        raise UserError(f"{path}: dataset format version {version}; this program reads version {FORMAT_VERSION}")
    try:
        info = DatasetInfo(**{f.name: parse_json(metadata[f.name], f.name) for f in dataclasses.fields(DatasetInfo)})
        _check_info(info)
        return info
    except KeyError as error:
        raise UserError(f"{path}: the dataset's metadata is damaged (no {error}); run preprocess.py again") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: the dataset's metadata is damaged ({error}); run preprocess.py again") from None


def _check_info(info: DatasetInfo) -> None:
    """
    Raises:
        ValueError, TypeError: a value is not what `preprocess.py` writes; the message names it.
    """
    for name, kind in INFO_KINDS.items():
        if type(getattr(info, name)) is not kind:
            raise ValueError(f"{name} must be {kind.__name__}, not {getattr(info, name)!r}")
    for name in ("seq_length", "vocab_size", "dup_factor"):
        if getattr(info, name) < 1:
            raise ValueError(f"{name} is {getattr(info, name)}")
    for role in SPECIAL_ROLES:
        number = info.special_ids.get(role)
        if type(number) is not int or not 0 <= number < info.vocab_size:
            raise ValueError(f"the special id '{role}' is {number}, of {info.vocab_size} entries")
    if MaskingConfig(**info.masking).problems():
        raise ValueError(f"masking is {info.masking}")


def _assemble(path: Path, info: DatasetInfo, arrays: dict[str, np.ndarray], shift: int) -> TokenDataset:
    tokens, offsets = arrays.pop("tokens"), Offsets(arrays.pop("block_starts"), arrays.pop("starts"), shift)
    types = offsets.block_starts.dtype, offsets.starts.dtype, tokens.dtype
    if types != (np.int64, np.uint16, token_dtype(info.vocab_size)):
        raise ValueError("a column has the wrong type")
    if not len(offsets) or len(offsets.block_starts) != ((len(offsets) - 1) >> shift) + 1:
        raise ValueError("starts and block_starts do not fit together")
    if offsets[0] != 0 or offsets[-1] != len(tokens):
        raise ValueError("offsets and tokens do not fit together")
    if any(len(column) not in (len(tokens), len(offsets) - 1) for column in arrays.values()):
        raise ValueError("a column's length fits neither tokens nor instances")
    return TokenDataset(path, info, tokens, offsets, arrays)
