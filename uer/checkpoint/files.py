"""Checkpoint files: they are written atomically and read without running code.

A checkpoint is a `torch.save` file of a flat dictionary from UER's parameter names to tensors, as the original toolkit
writes it. It is read with `weights_only`, so a file from an unknown source cannot run code. Every record is first
compared with its checksum, so that a damaged file is refused instead of being loaded in part.

    save_weights(model.state_dict(), "model.bin-1000")
    report = load_into(model, load_weights("model.bin-1000"), "model.bin-1000")
"""

import mmap
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uer.checkpoint.outline import check_claims, check_directory
from uer.errors import UserError
from uer.files import atomic_path, flush_to_disk
from uer.reading import require_regular

SMALL_BYTES = 1 << 16
WEIGHT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def save_weights(state: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Write `state` as plain CPU tensors; `path` exists only once the file is whole and on disk.

    Tensors with the same memory (tied weights) are stored once. The same weights give the same bytes.
    """
    write(to_host(state), path)


def load_weights(path: str | os.PathLike, buffers: bool = False) -> dict[str, Tensor]:
    """Read a checkpoint's tensors onto the CPU: finite floating-point numbers, so that no later step need check them.

    Args:
        path: the file.
        buffers: tensors of other types, such as the position numbers in Hugging Face's files, may be among them.

    Raises:
        UserError: the file is missing, truncated, damaged, holds anything but named tensors of finite numbers, or
            tries to run code.
    """
    content = read(path)
    if isinstance(content, Mapping) and {"model", "optimizer", "step"} <= content.keys():
        raise UserError(f"{path}: a training state, not a checkpoint; the checkpoint's name ends with "
                        f"-{content['step']}")
    if not isinstance(content, Mapping) or not content or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        raise UserError(f"{path}: not a checkpoint: a dictionary of named tensors is needed")
    require_finite(content, path, buffers)
    return dict(content)


def require_finite(weights: Mapping[str, Tensor], path: str | os.PathLike, buffers: bool = False) -> None:
    """See that a model can compute with these weights; takes a tenth of a second for a model of 100 million.

    Args:
        weights: CPU tensors by name.
        path: where they come from, for the message.
        buffers: tensors of other types than `WEIGHT_TYPES` are passed over instead of refused.

    Raises:
        UserError: a tensor holds integers, complex numbers or the like, or NaN or infinity, as a diverged training
            leaves them; names the tensor.
    """
    for name, tensor in weights.items():
        if tensor.dtype not in WEIGHT_TYPES or tensor.layout != torch.strided:
            if buffers:
                continue
            raise UserError(f"{path}: {name} holds {tensor.dtype} numbers; weights are floating-point numbers")
        if not _is_finite(tensor):
            raise UserError(f"{path}: {name} is not finite (NaN or infinity); such weights, of a training that "
                            "diverged, are never used")


def _is_finite(tensor: Tensor) -> bool:
    """Whether every number is finite as float32. A sum is finite only if all its terms are, and quicker to look at."""
    numbers = tensor.detach()
    if numbers.dtype == torch.float64:
        numbers = numbers.float()
    return bool(torch.isfinite(numbers.sum(dtype=torch.float32))) or bool(torch.isfinite(numbers).all())


@dataclass(frozen=True)
class LoadReport:
    """What a load did not cover: names of the model that got nothing, names of the file that nothing took, and
    (name, shape in the file, shape in the model) where the two differ."""

    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    other_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """One line for every key that did not fit."""
        return ([f"missing, keeps its initial values: {name}" for name in self.missing]
                + [f"left over, not used: {name}" for name in self.left_over]
                + [f"of another shape, keeps its initial values: {name}: {list(theirs)} in the file, {list(ours)} here"
                   for name, theirs, ours in self.other_shape])


def load_into(model: nn.Module, state: Mapping[str, Tensor], source: str | os.PathLike) -> LoadReport:
    """Copy the tensors of `state` that fit into `model`; report for every other key why it does not fit.

    A name the file lacks is not missing when the model ties it to one the file has. A model on the meta device is only
    compared.

    Raises:
        UserError: nothing fits, so `source` belongs to another kind of model.
    """
    ours = model.state_dict(keep_vars=True)  # the parameters themselves: one that is tied has several names
    fitting, other_shape = {}, []
    for name, value in state.items():
        if name in ours and ours[name].shape == value.shape:
            fitting[name] = value
        elif name in ours:
            other_shape.append((name, tuple(value.shape), tuple(ours[name].shape)))
    if not fitting:
        example = next(iter(state), "none")
        raise UserError(f"{source}: none of its {len(state)} tensors fits this model (it has {example})")
    covered = {id(ours[name]) for name in fitting}
    different = {name for name, _, _ in other_shape}
    missing = [name for name in ours
               if name not in fitting and name not in different and id(ours[name]) not in covered]
    if not any(parameter.is_meta for parameter in ours.values()):
        model.load_state_dict(fitting, strict=False)
    return LoadReport(missing, [name for name in state if name not in ours], other_shape)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors without its frozen parameters: all of them where none is frozen."""
    frozen = frozen_state(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def frozen_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's frozen parameters, under all of their names."""
    return {name: parameter.detach() for name, parameter in model.named_parameters(remove_duplicate=False)
            if not parameter.requires_grad}


def load_trained(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill a model with what `trained_state` gave of it."""
    different = state.keys() ^ trained_state(model).keys()
    assert not different, f"not the trained parameters of this model: {sorted(different)[:3]}"
    model.load_state_dict(state, strict=False)


def to_host(content: Any) -> Any:
    """A copy of nested dictionaries and lists of tensors on the CPU, which later training steps cannot change.

    Tensors that are the same memory stay the same tensor.
    """
    return _copy(content, {})


def _copy(content: Any, seen: dict[tuple, Tensor]) -> Any:
    if isinstance(content, Tensor):
        key = (content.device, content.data_ptr(), content.shape, content.stride(), content.dtype)
        if content.numel() == 0 or key not in seen:
            seen[key] = _empty_on_host(content).copy_(content.detach())
        return seen[key]
    if isinstance(content, Mapping):
        return {key: _copy(value, seen) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_copy(value, seen) for value in content]
    return content


def _empty_on_host(like: Tensor) -> Tensor:
    """Uninitialised memory for a copy: pages of its own where it is large.

    These go back to the operating system when the copy is freed. malloc may keep freed blocks of up to 32 MiB for the
    process: with a base model 1 GB stayed there after a checkpoint was written.
    """
    if like.nbytes < SMALL_BYTES:
        return torch.empty(like.shape, dtype=like.dtype)
    pages = mmap.mmap(-1, like.nbytes)
    return torch.frombuffer(pages, dtype=like.dtype).view(like.shape)


def write(content: Any, path: str | os.PathLike, before_rename: Callable[[], None] | None = None) -> None:
    """`torch.save` next to `path`, flush, rename.

    Args:
        before_rename: called when the content is on disk, but not yet under its name.

    Raises:
        OSError: the disk is full or the like; it names `path`.
    """
    try:
        with atomic_path(path) as temporary:
            with open(temporary, "wb") as file:
                torch.save(content, file)
            if before_rename is not None:
                flush_to_disk(temporary)
                before_rename()
    except (OSError, RuntimeError) as error:
        # torch hides what the operating system said behind its own complaint.
        reason = error if isinstance(error, OSError) else error.__context__
        if isinstance(reason, OSError):
            raise OSError(reason.errno, reason.strerror, str(path)) from None
        raise


def read(path: str | os.PathLike) -> Any:
    """The content of a `torch.save` file, weights-only and checked against its checksums.

    Raises:
        UserError: in one line, whatever is wrong with the file.
    """
    path = Path(path)
    require_regular(path)
    try:
        _check_kind(path)
        check_directory(path)
        _check_sums(path)
        check_claims(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except Exception as error:
        raise UserError(f"{path}: not a checkpoint, or a damaged one: {_reason(error)}") from None


def _check_kind(path: Path) -> None:
    """torch.save writes zip archives, and pickles in earlier days; say so of anything else."""
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        raise UserError(f"{path}: a safetensors file, not a checkpoint; "
                        "scripts/convert_bert_from_huggingface_to_uer.py makes checkpoints from Hugging Face models")
    if start and not start.startswith((b"PK", b"\x80")):
        raise UserError(f"{path}: not a checkpoint: torch.save wrote no such file")
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise EOFError


def _check_sums(path: Path) -> None:
    """torch reads records without comparing their checksums, and so would load flipped bits as weights."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(f"{path}: damaged: the record {damaged} does not match its checksum")


def _reason(error: Exception) -> str:
    text = str(error)
    if "Weights only load failed" in text or "weights_only" in text:
        return "it holds more than tensors, and such a file could run code"
    if isinstance(error, EOFError) or "PytorchStreamReader" in text:
        return "it ends too early or its directory is broken"
    return " ".join(text.split())[:120] or type(error).__name__
