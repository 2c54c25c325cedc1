"""The dataset file: columns in the safetensors format, opened by memory mapping.

This is format version 2; everything in the file is little-endian. Whatever reads safetensors reads it:

    8 bytes   length of the header, uint64
    header    JSON, filled up with spaces to a multiple of 8: dtype, shape and offsets of each column, `__metadata__`
    columns   one after another, each one-dimensional, those with the largest types first

The metadata are strings: `format` ("uer-dataset"), `offsets_shift` (a whole number for each sequence, as JSON), and
each field of `DatasetInfo` as JSON; `format_version` is one of them. `schema` names the columns. For N instances of the
sequences "src" and, where there is one, "tgt":

    src               uint16, or uint32 where the vocabulary has over 65,536 entries: the token ids of all instances,
                      one instance after another, without padding
    src.starts        uint16 (N + 1) and
    src.block_starts  int64 (N // 2^shift + 1): where instances begin in `src`. Instance i has the tokens
                      src[offset(i):offset(i + 1)] with offset(i) = block_starts[i >> shift] + starts[i]
    tgt, ...          likewise
    others            further columns of the schema: one value for each token of a sequence, such as `word_start` (1
                      where a token begins a word), or one for each instance, such as a label

Masks are not in the file: they are made while training (`uer.data.masking`). Files of version 1, which hold one
sequence under the names `tokens`, `starts` and `block_starts`, are still read. No torch here: `preprocess.py` has to
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

from uer.config import LARGEST_SEED, LONGEST_ROW
from uer.data.packed_offsets import Offsets, block_shift, pack
from uer.data.schema import INSTANCE, Column, VocabInfo, axes_of, schema_problem
from uer.errors import UserError
from uer.files import atomic_path
from uer.json_files import json_text, parse_json
from uer.reading import require_regular

FORMAT = "uer-dataset"
FORMAT_VERSION = 2  # goes up with every change to what the docstring above says
MAX_HEADER_BYTES = 1 << 24
LARGEST_LENGTH = LONGEST_ROW + 1  # a language model's rows have a token more than --seq_length
SAFETENSORS_NAMES = {"int64": "I64", "uint32": "U32", "uint16": "U16", "uint8": "U8"}
INFO_KINDS = {"processor": str, "seq_length": int, "schema": dict, "lengths": dict, "vocabs": dict,
              "processor_settings": dict, "dynamic_masking": bool, "dup_factor": int, "seed": int, "counts": dict,
              "command": str}
NUMPY_NAMES = {short: name for name, short in SAFETENSORS_NAMES.items()}


@dataclass(frozen=True)
class DatasetInfo:
    """The metadata of a dataset: how it was made, and what a training run must agree with."""

    format_version: int
    processor: str
    seq_length: int
    """--seq_length."""
    schema: dict[str, Column]
    lengths: dict[str, int]
    """For each sequence, the most tokens of an instance."""
    vocabs: dict[str, VocabInfo]
    """By the names that the schema's columns use."""
    processor_settings: dict[str, Any] = field(default_factory=dict)
    """The settings of the processor: its `config_class` as a dictionary."""
    dynamic_masking: bool = False
    """Whether what is random in a batch is drawn anew in every epoch."""
    dup_factor: int = 1
    """Without dynamic masking: how many versions of each instance an epoch has."""
    seed: int = 7
    counts: dict[str, int] = field(default_factory=dict)
    """The counts of corpus and dataset: documents, blank_lines, instances, tokens, ..."""
    command: str = ""

    @property
    def vocab(self) -> VocabInfo:
        """The vocabulary of the source sequence."""
        return self.vocabs["src"]


@dataclass(frozen=True)
class TokenDataset:
    """An open dataset; the arrays are views of the mapped file."""

    path: Path
    info: DatasetInfo
    columns: dict[str, np.ndarray]
    """By the schema's names."""
    offsets: dict[str, Offsets]
    """For each sequence, where its instances begin."""

    def __len__(self) -> int:
        """Stored instances (static masking trains on `info.dup_factor` versions of each)."""
        return len(self.offsets["src"]) - 1

    def __getitem__(self, instance: int) -> np.ndarray:
        """The source tokens of one instance, without padding."""
        return self.sequence(instance, "src")

    def sequence(self, instance: int, axis: str) -> np.ndarray:
        """The tokens of one instance's "src" or "tgt", without padding."""
        if not 0 <= instance < len(self):
            raise IndexError(instance)
        return self.columns[axis][self.offsets[axis][instance]:self.offsets[axis][instance + 1]]

    @property
    def tokens(self) -> np.ndarray:
        """The source tokens of all instances."""
        return self.columns["src"]

    @property
    def tokens_num(self) -> int:
        """Tokens of all sequences of all instances."""
        return sum(len(self.columns[axis]) for axis in self.offsets)


@dataclass(frozen=True)
class StreamedColumn:
    """A column to be written: its whole length, and its values piece by piece."""

    dtype: np.dtype
    length: int
    pieces: Iterable[np.ndarray]


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
        ranges = {name: (np.dtype(NUMPY_NAMES[entry["dtype"]]), *entry["shape"], *entry["data_offsets"])
                  for name, entry in header.items()}
        end = max(stop for _, _, _, stop in ranges.values())
        size = path.stat().st_size
        if data_start + end != size:
            raise UserError(f"{path}: the dataset is truncated or damaged: it should have {data_start + end} bytes "
                            f"and has {size}; run preprocess.py again")
        mapped = np.asarray(np.memmap(path, np.uint8, mode="r"))[data_start:]
        arrays = {name: mapped[start:stop].view(dtype) for name, (dtype, _, start, stop) in ranges.items()}
        if any(len(arrays[name]) != length for name, (_, length, _, _) in ranges.items()):
            raise ValueError("a column's shape does not match its size")
        return _assemble(path, info, arrays, parse_json(metadata["offsets_shift"], "offsets_shift"))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: the dataset's header is damaged ({error}); run preprocess.py again") from None


def check_instances(dataset: TokenDataset, axis: str, offsets: np.ndarray) -> None:
    """Raise UserError unless these offsets, one behind the other, may be those of instances."""
    lengths = np.diff(offsets)
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= dataset.info.lengths[axis]:
        raise UserError(f"{dataset.path}: the dataset is damaged: an instance begins or ends where none can; run "
                        "preprocess.py again")


def check_ids(dataset: TokenDataset, name: str, values: np.ndarray) -> None:
    """Raise UserError unless these values of a column are ids of its vocabulary; other columns may hold any values."""
    column = dataset.info.schema[name]
    size = dataset.info.vocabs[column.vocab].size
    if column.dtype == "ids" and len(values) and values.max() >= size:
        raise UserError(f"{dataset.path}: the dataset is damaged: token id {values.max()} in a vocabulary of "
                        f"{size} entries; run preprocess.py again")


def write_dataset(path: str | os.PathLike, info: DatasetInfo, columns: Mapping[str, StreamedColumn],
                  offsets: Mapping[str, StreamedColumn]) -> None:
    """Stream columns into a dataset file, which appears under its name when it is whole.

    Args:
        columns: by the names of `info.schema`.
        offsets: for each sequence, int64: where instances begin, and where the last one ends. No instance may be longer
            than `info.lengths` says.
    """
    assert set(columns) == set(info.schema) and set(offsets) == set(axes_of(info.schema))
    shifts = {axis: block_shift(info.lengths[axis]) for axis in offsets}
    packed = dict(columns)
    for axis, column in offsets.items():
        packed |= _packed_offsets(axis, column, shifts[axis])
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        header, starts = _header(info, shifts, packed)
        file.write(header)
        for name, column in packed.items():
            file.seek(len(header) + starts[name])
            written = 0
            for piece in column.pieces:
                assert piece.dtype == column.dtype, f"column {name}: {piece.dtype} is not {column.dtype}"
                file.write(np.ascontiguousarray(piece).data)
                written += len(piece)
            assert written == column.length, f"column {name}: {written} values, not {column.length}"


def _packed_offsets(axis: str, offsets: StreamedColumn, shift: int) -> dict[str, StreamedColumn]:
    """`starts`, and `block_starts`, which are known when the former have been streamed."""
    blocks: list[np.ndarray] = []
    return {f"{axis}.starts": StreamedColumn(np.dtype(np.uint16), offsets.length, pack(offsets.pieces, shift, blocks)),
            f"{axis}.block_starts": StreamedColumn(np.dtype(np.int64), ((offsets.length - 1) >> shift) + 1, blocks)}


def save_dataset(path: str | os.PathLike, info: DatasetInfo, columns: Mapping[str, np.ndarray],
                 offsets: Mapping[str, np.ndarray]) -> None:
    """Write a dataset that is in memory.

    Args:
        columns: by the names of `info.schema`; values are stored in the schema's types.
        offsets: for each sequence (instances + 1,): where each instance begins.
    """
    arrays = {name: np.asarray(columns[name]).astype(column.numpy_type(info.vocabs))
              for name, column in info.schema.items()}
    write_dataset(path, info,
                  {name: StreamedColumn(array.dtype, len(array), [array]) for name, array in arrays.items()},
                  {axis: StreamedColumn(np.dtype(np.int64), len(values), [np.asarray(values, np.int64)])
                   for axis, values in offsets.items()})


def _header(info: DatasetInfo, shifts: dict[str, int],
            columns: Mapping[str, StreamedColumn]) -> tuple[bytes, dict[str, int]]:
    """-> (the first bytes of the file, where each column begins behind them).

    The columns begin at a multiple of 8 and come in falling size of their type: each is aligned.
    """
    metadata = {name: json_text(value, sort_keys=True)
                for name, value in dataclasses.asdict(info).items()}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "offsets_shift": json_text(shifts), **metadata}}
    starts: dict[str, int] = {}
    end = 0
    for name, column in sorted(columns.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        starts[name] = end
        end += column.length * column.dtype.itemsize
        header[name] = {"dtype": SAFETENSORS_NAMES[column.dtype.name], "shape": [column.length],
                        "data_offsets": [starts[name], end]}
    encoded = json_text(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded, starts


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
    if version not in ("1", str(FORMAT_VERSION)):
        raise UserError(f"{path}: dataset format version {version}; this program reads versions 1 and {FORMAT_VERSION}")
    try:
        fields = {name: parse_json(text, name) for name, text in metadata.items() if name != "format"}
        info = _info_of_version_1(fields) if version == "1" else _info_of(fields)
        _check_info(info)
        return info
    except KeyError as error:
        raise UserError(f"{path}: the dataset's metadata is damaged (no {error}); run preprocess.py again") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: the dataset's metadata is damaged ({error}); run preprocess.py again") from None


def _info_of(fields: dict[str, Any]) -> DatasetInfo:
    known = {known.name: fields[known.name] for known in dataclasses.fields(DatasetInfo)}
    known["schema"] = {name: Column(**column) for name, column in known["schema"].items()}
    known["vocabs"] = {name: VocabInfo(**vocab) for name, vocab in known["vocabs"].items()}
    return DatasetInfo(**known)


def _info_of_version_1(fields: dict[str, Any]) -> DatasetInfo:
    """Version 1 knew one processor, mlm, one sequence and one further column; `_assemble` adds the latter."""
    vocab = VocabInfo(fields["vocab_fingerprint"], fields["vocab_size"], fields["special_ids"], fields["tokenizer"])
    kept = ("processor", "seq_length", "dynamic_masking", "dup_factor", "seed", "counts", "command")
    return DatasetInfo(format_version=1, schema={"src": Column()}, lengths={"src": fields["seq_length"]},
                       vocabs={"src": vocab}, processor_settings={"full_sentences": False, **fields["masking"]},
                       **{name: fields[name] for name in kept})


def _check_info(info: DatasetInfo) -> None:
    """Check that every value is one that `preprocess.py` writes.

    Raises:
        ValueError, TypeError: one is not; the message names it.
    """
    for name, kind in INFO_KINDS.items():
        if type(getattr(info, name)) is not kind:
            raise ValueError(f"{name} must be {kind.__name__}, not {getattr(info, name)!r}")
    if problem := schema_problem(info.schema):
        raise ValueError(problem)
    lengths = {f"the length of {axis}": info.lengths[axis] for axis in axes_of(info.schema)}
    sizes = {f"vocab_size of {name}": vocab.size for name, vocab in info.vocabs.items()}
    rows = {"seq_length": info.seq_length, **lengths}
    for name, value in {"dup_factor": info.dup_factor, **rows, **sizes}.items():
        if type(value) is not int or not 1 <= value <= (LARGEST_LENGTH if name in rows else LARGEST_SEED):
            raise ValueError(f"{name} is {value!r}")
    for column in info.schema.values():
        if column.dtype == "ids" and column.vocab not in info.vocabs:
            raise ValueError(f"there is no vocabulary {column.vocab}")
    for vocab in info.vocabs.values():
        for role, number in {"pad": None, **vocab.special_ids}.items():  # batches are padded; no other role is a must
            if type(number) is not int or not 0 <= number < vocab.size:
                raise ValueError(f"the special id '{role}' is {number}, of {vocab.size} entries")


def _assemble(path: Path, info: DatasetInfo, arrays: dict[str, np.ndarray], shifts: Any) -> TokenDataset:
    """The columns and offsets that the schema asks for.

    Raises:
        ValueError, KeyError: the file does not hold them.
    """
    if info.format_version == 1:
        arrays = {{"tokens": "src", "starts": "src.starts", "block_starts": "src.block_starts"}.get(name, name): array
                  for name, array in arrays.items()}
        shifts = {"src": shifts}
        info.schema.update({"word_start": Column(dtype="uint8")} if "word_start" in arrays else {})
    axes = axes_of(info.schema)
    offsets = {axis: Offsets(arrays.pop(f"{axis}.block_starts"), arrays.pop(f"{axis}.starts"), shifts[axis])
               for axis in axes}
    for axis, found in offsets.items():
        _check_offsets(found, len(arrays[axis]))
        if len(found) != len(offsets["src"]):
            raise ValueError(f"src has {len(offsets['src']) - 1} instances, {axis} has {len(found) - 1}")
    if arrays.keys() != info.schema.keys():
        raise ValueError(f"the columns are {sorted(arrays)}, the schema says {sorted(info.schema)}")
    for name, column in info.schema.items():
        length = len(offsets["src"]) - 1 if column.axis == INSTANCE else len(arrays[column.axis])
        if arrays[name].dtype != column.numpy_type(info.vocabs):
            raise ValueError(f"the column {name} has the wrong type")
        if len(arrays[name]) != length:
            raise ValueError(f"the column {name} has {len(arrays[name])} values instead of {length}")
    return TokenDataset(path, info, arrays, offsets)


def _check_offsets(offsets: Offsets, tokens: int) -> None:
    if (offsets.block_starts.dtype, offsets.starts.dtype) != (np.int64, np.uint16) or type(offsets.shift) is not int:
        raise ValueError("a column has the wrong type")
    if not len(offsets) or not 0 <= offsets.shift < 64 or (
            len(offsets.block_starts) != ((len(offsets) - 1) >> offsets.shift) + 1):
        raise ValueError("starts and block_starts do not fit together")
    if offsets[0] != 0 or offsets[-1] != tokens:
        raise ValueError("offsets and tokens do not fit together")
