"""Reading and writing the files of both worlds: whole or not at all, and never running code from them."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from uer.errors import UserError
from uer.files import flush_to_disk, make_folder
from uer.training.checkpoint import load_weights

# What a Hugging Face folder may hold its weights in, in the order in which transformers looks.
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class HuggingFaceModel:
    """A model as it lies on disk: its tensors, and config.json's content ({} where there is none)."""

    weights: dict[str, Tensor]
    config: dict[str, Any]


def read_hugging_face(path: str | os.PathLike) -> HuggingFaceModel:
    """Read a folder, a .safetensors or a .bin file, sharded or not; config.json is looked for beside the weights.

    Raises:
        UserError: what is missing or damaged, in one line.
    """
    path = weights_file(path)
    config = path.parent / "config.json"
    return HuggingFaceModel(read_weights(path), read_json(config) if config.is_file() else {})


def weights_file(path: str | os.PathLike) -> Path:
    """The file that holds a folder's weights, or the index of those that do; a file stands for itself.

    Raises:
        UserError: the folder has none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
    if not found:
        raise UserError(f"{path}: holds none of {', '.join(WEIGHT_FILES)}")
    return found[0]


def weights_files(path: str | os.PathLike) -> list[Path]:
    """All files of a model's weights: the shards that an index names, else the one file."""
    file = weights_file(path)
    return _shards(file) if file.name.endswith(".index.json") else [file]


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of one file, or of all the files that an index names."""
    path = Path(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix != ".safetensors":
        return load_weights(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a safetensors file, or a damaged one: {_one_line(error)}") from None


def _read_shards(index: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for shard in _shards(index):
        weights.update(read_weights(shard))
    return weights


def _shards(index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index}: 'weight_map' is missing or no map of file names")
    for name in places.values():
        if Path(name).name != name:
            raise UserError(f"{index}: the shard {name} lies in another folder")
    return [index.parent / name for name in sorted(set(places.values()))]


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {_one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object is needed, not {type(content).__name__}")
    return content


def write_json(content: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Indented, in the order given, with non-ASCII text as it is."""
    Path(path).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_safetensors(weights: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Write tensors that share no memory, marked as PyTorch's so that TensorFlow readers transpose them."""
    path = Path(path)
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(weights), path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk, most likely
        raise UserError(f"{path}: cannot be written: {_one_line(error)}") from None
    path.chmod(mode)  # safetensors makes files that only their owner can read


@contextmanager
def atomic_folder(final: str | os.PathLike) -> Iterator[Path]:
    """Yield a new folder beside `final` to write files to; they appear in `final`, complete, when the block ends well.

    A `final` that is not there yet appears in one step. In one that is, each file is replaced in one step, and files of
    other names stay. When the block raises, `final` stays as it was.

    Raises:
        UserError: `final` is a file, or the folder above cannot be made.
    """
    final = Path(final).absolute()
    make_folder(final.parent)
    if final.exists() and not final.is_dir():
        raise UserError(f"{final}: is a file; a folder is needed")
    temporary = final.with_name(final.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        written = sorted(temporary.iterdir())
        for path in written:
            flush_to_disk(path)
        if not final.exists():
            temporary.rename(final)
        else:
            for path in written:
                path.replace(final / path.name)
            flush_to_disk(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    flush_to_disk(final.parent)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
