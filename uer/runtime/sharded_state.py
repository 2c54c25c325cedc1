"""Tensors of several ranks in one folder, by `torch.distributed.checkpoint`: each rank writes and reads its own parts,
and a folder that some ranks have written is read by any number of others.

torch pickles the folder's directory, `.metadata`, and would run code that such a file names; here it is read by an
unpickler that knows the directory's own classes and no others. Everything else in the folder are tensors.
"""

import pickle
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from uer.errors import UserError

if TYPE_CHECKING:
    from uer.runtime.parallel import World

DIRECTORY = ".metadata"

_KNOWN = {
    "torch.distributed.checkpoint.metadata": ("Metadata", "MetadataIndex", "TensorStorageMetadata", "TensorProperties",
                                              "ChunkStorageMetadata", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch": ("Size",),
    "pathlib": ("PosixPath", "WindowsPath"),
    "torch.serialization": ("_get_layout",),
}
"""What a directory consists of: module -> names."""


class _Unpickler(pickle.Unpickler):
    """Reads the classes of torch's directory and numbers' types, and refuses to import anything else."""

    def find_class(self, module: str, name: str) -> Any:
        dtype = isinstance(getattr(torch, name, None), torch.dtype) if module == "torch" else False
        if not dtype and name not in _KNOWN.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into a directory of tensors")
        return super().find_class(module, name)


def begin_save(tensors: Mapping[str, Tensor], folder: Path, world: "World") -> Future:
    """Copy the tensors to the host, and begin to write them in a thread. Every rank calls.

    Args:
        tensors: by name, DTensors or whole ones; later changes of them are not written.
        folder: a new one, on a file system of all ranks.

    Returns:
        Done on each rank when all ranks have written; `finish_save` gives its errors.
    """
    from torch.distributed import checkpoint as dcp  # imports parts of torch's compiler

    return dcp.async_save(dict(tensors), storage_writer=dcp.FileSystemWriter(folder), process_group=world.writing_group)


def finish_save(saving: Future, folder: Path) -> None:
    """Wait until all ranks have written.

    Raises:
        OSError: the disk is full or the like, on any rank; it names `folder`.
    """
    from torch.distributed.checkpoint.api import CheckpointException  # no Exception of Python's

    try:
        saving.result()
    except CheckpointException as error:
        for cause, _ in error.failures.values():
            while cause is not None:
                if isinstance(cause, OSError):
                    raise OSError(cause.errno, cause.strerror, str(folder)) from None
                cause = cause.__cause__ or cause.__context__
        raise


def load_(tensors: Mapping[str, Tensor], folder: Path, alone: bool = False) -> None:
    """Overwrite DTensors or whole tensors with their namesakes of a folder; every rank calls, or one `alone`.

    Raises:
        UserError: the folder lacks one, or is damaged.
    """
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    shapes(folder)  # a damaged directory is found before the first collective operation
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is a single process
            dcp.load(dict(tensors), storage_reader=_reader(folder), no_dist=alone or not dist.is_initialized())
    except (Exception, CheckpointException) as error:
        raise UserError(f"{folder}: not a training state of this model, or a damaged one: {_reason(error)}") from None


def shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """The shape and type of each tensor in a folder.

    Raises:
        UserError: there is no directory, or a damaged one.
    """
    try:
        entries = _reader(folder).read_metadata().state_dict_metadata
        return {name: (entry.size, entry.properties.dtype) for name, entry in entries.items()}
    except Exception as error:
        raise UserError(f"{folder}: not a training state, or a damaged one: {_reason(error)}") from None


def _reader(folder: Path) -> Any:
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import StorageMeta

    class Reader(FileSystemReader):
        """torch's, with the directory read safely."""

        def read_metadata(self, *arguments: Any, **named: Any) -> Any:
            with (folder / DIRECTORY).open("rb") as file:
                metadata = _Unpickler(file).load()
            metadata.storage_meta = StorageMeta(load_id=self.load_id)
            return metadata

    return Reader(folder)


def _reason(error: BaseException) -> str:
    """One line that says what went wrong; of a `CheckpointException`, on the first rank where something did."""
    for cause, _ in getattr(error, "failures", {}).values():
        return _reason(cause)
    return " ".join(str(error).split())[:200] or type(error).__name__
