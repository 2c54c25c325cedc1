"""Checks the sizes that a `torch.save` file declares, without allocating a tensor.

torch does not check them: it unpacks a record of three gigabytes in a small archive, reads a storage beyond the end of
its record, and makes a tensor of any shape from a few stored numbers and a stride of 0. Here the declared sizes are
compared with the size of the file first. Only the archive's directory and the pickle are read, and every class and
function in the pickle is replaced by one that does nothing, so no code of the file is run.
"""

import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from uer.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
ITEM_BYTES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1,
              "Bool": 1, "ComplexDouble": 16, "ComplexFloat": 8, "QInt32": 4}
KINDS = {"_rebuild_sparse_tensor": "a sparse tensor", "_rebuild_meta_tensor_no_storage": "a meta tensor",
         "_rebuild_qtensor": "a quantized tensor", "_rebuild_nested_tensor": "a nested tensor",
         "_rebuild_wrapper_subclass": "a tensor of a class of its own",
         "_rebuild_device_tensor_from_numpy": "a tensor of another device",
         "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
         "_rebuild_xla_tensor": "a tensor of another device"}
PLAIN = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")


def check_directory(path: Path) -> None:
    """Check the names and sizes of an archive's records.

    Raises:
        UserError: it would unpack to more than the file holds, or has records that torch.save does not write.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _directory(archive, path, path.stat().st_size)


def check_claims(path: Path) -> None:
    """Compare what the file says of its tensors with what it holds.

    Raises:
        UserError: a storage or a tensor claims more numbers than there are, or a tensor is no plain one; names it.
        Exception: whatever pickle or zipfile say of a damaged file.
    """
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if _Unpickler(file).load() == LEGACY_MAGIC:
                _, _, outline = (_Unpickler(file).load() for _ in range(3))
                _check_claims(outline, None, path, size)
        return
    with zipfile.ZipFile(path) as archive:
        root, records = _directory(archive, path, size)
        if f"{root}/data.pkl" not in records:
            return  # a zip archive of another kind; torch says what it lacks
        with archive.open(f"{root}/data.pkl") as file:
            outline = _Unpickler(file).load()
    held = {name.removeprefix(f"{root}/data/"): length for name, length in records.items()}
    _check_claims(outline, held, path, size)


def _directory(archive: zipfile.ZipFile, path: Path, size: int) -> tuple[str, dict[str, int]]:
    """The folder all records lie in, and each record's unpacked size.

    torch looks names up without regard to case: two records of one name would let it read another than is checked.
    """
    entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size:
        raise UserError(f"{path}: not a checkpoint: it has {size:,} bytes and would unpack to {unpacked:,}")
    roots = {entry.filename.partition("/")[0] for entry in entries}
    if len(roots) != 1 or len({entry.filename.lower() for entry in entries}) < len(entries):
        raise UserError(f"{path}: not a checkpoint: its records have names that torch.save does not give")
    return roots.pop(), {entry.filename: entry.file_size for entry in entries}


class _Foreign:
    """Stands for every class and function that a plain checkpoint does not need: does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> "_Foreign":
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Take what a pickled list of a foreign class holds."""

    def extend(self, items: Any) -> None:
        """The same."""


class _Mapping(dict):
    """An OrderedDict, whose attributes (`_metadata`) do not matter."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Storage:
    """A storage: its record, and how many elements of how many bytes it claims."""

    def __init__(self, kind: str, key: Any, count: Any) -> None:
        self.key = str(key)
        self.count = count if type(count) is int else -1
        self.item_bytes = ITEM_BYTES.get(kind.removesuffix("Storage"), 1)


class _StorageClass:
    """Bound to a name such as FloatStorage; never called."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Tensor:
    """A tensor's claims."""

    def __init__(self, kind: str, arguments: tuple) -> None:
        self.kind = kind
        self.storage, self.offset, self.shape, self.stride = (*arguments[:4], *[None] * 4)[:4]

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Mapping
        if (module, name) == ("torch", "Size"):
            return tuple
        if module.startswith("torch") and name.endswith("Storage"):
            return _StorageClass(name)
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return lambda data, *rest: data
        if module == "torch._utils" and (name in KINDS or name in PLAIN):
            return lambda *arguments: _Tensor(name, arguments)
        return _Foreign

    def persistent_load(self, saved: Any) -> Any:
        if isinstance(saved, tuple) and len(saved) >= 5 and isinstance(saved[1], _StorageClass):
            return _Storage(saved[1].kind, saved[2], saved[4])
        return _Foreign()


def _check_claims(outline: Any, held: Mapping[str, int] | None, path: Path, size: int) -> None:
    """Every tensor is plain and lies in its storage, every storage in its record (`held`) or, in files of torch's
    older format, in the file."""
    storages: dict[str, int] = {}
    for name, tensor in _tensors(outline):
        if tensor.kind in KINDS:
            raise UserError(f"{path}: {name} is {KINDS[tensor.kind]}; plain dense tensors are needed")
        storage = tensor.storage
        if not isinstance(storage, _Storage) or not _fits(tensor, storage):
            shape = tensor.shape if isinstance(tensor.shape, tuple) else ()
            raise UserError(f"{path}: {name} has shape {list(shape)[:8]}, which its stored numbers do not make")
        storages[storage.key] = claimed = storage.count * storage.item_bytes
        if held is not None and claimed > held.get(storage.key, 0):
            raise UserError(f"{path}: {name} claims {claimed:,} bytes, but the file has {held.get(storage.key, 0):,}")
    if sum(storages.values()) > size:
        raise UserError(f"{path}: its tensors claim {sum(storages.values()):,} bytes, but the file has {size:,}")


def _fits(tensor: _Tensor, storage: _Storage) -> bool:
    """Whether the tensor's elements lie in its storage, and are no more than the storage has."""
    numbers = (tensor.offset, *_tuple(tensor.shape), *_tuple(tensor.stride))
    if not all(type(number) is int and number >= 0 for number in numbers):
        return False
    if len(tensor.shape) != len(tensor.stride):
        return False
    elements = math.prod(tensor.shape)
    last = tensor.offset + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride))
    return not elements or (elements <= storage.count and last < storage.count)


def _tuple(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (None,)


def _tensors(outline: Any) -> Iterator[tuple[str, _Tensor]]:
    """(dotted name, tensor) of everything in nested dictionaries and lists; each container is visited once."""
    pending, seen = [("", outline)], set()
    while pending:
        name, node = pending.pop()
        if isinstance(node, _Tensor):
            yield name or "its content", node
        if not isinstance(node, (dict, list, tuple)) or id(node) in seen:
            continue
        seen.add(id(node))
        children = node.items() if isinstance(node, dict) else enumerate(node)
        pending += [(f"{name}.{key}" if name else str(key), child) for key, child in children]
