"""Reading and writing the weights and the configuration of a Hugging Face folder, never running code from them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from uer.checkpoint.files import load_weights, require_finite
from uer.errors import UserError
from uer.json_files import json_text, read_json_object
from uer.reading import require_regular

# What a Hugging Face folder may hold its weights in, in the order in which transformers looks.
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                "pytorch_model.bin.index.json")
# What `write_weights` calls its files.
WRITTEN_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
# What such a folder holds, as far as this program reads or writes it.
FOLDER_FILES = (*WEIGHT_FILES, "config.json", "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model",
                "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
                "README.md")


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
    return HuggingFaceModel(read_weights(path), read_json_object(config) if config.is_file() else {})


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
        return load_weights(path, buffers=True)
    require_regular(path)
    try:
        weights = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a safetensors file, or a damaged one: {_one_line(error)}") from None
    require_finite(weights, path, buffers=True)
    return weights


def _read_shards(index: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for shard in _shards(index):
        weights.update(read_weights(shard))
    return weights


def _shards(index: Path) -> list[Path]:
    shards = read_json_object(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{index}: 'weight_map' is missing or no map of file names")
    for name in shards.values():
        if Path(name).name != name:
            raise UserError(f"{index}: the shard {name} lies in another folder")
        if name.endswith(".index.json"):
            raise UserError(f"{index}: the shard {name} is an index itself")
    return [index.parent / name for name in sorted(set(shards.values()))]


def write_json(content: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Indented, in the order given, with non-ASCII text as it is."""
    Path(path).write_text(json_text(content, indent=2) + "\n", encoding="utf-8")


def write_weights(weights: Mapping[str, Tensor], folder: str | os.PathLike, max_shard_bytes: int = 0) -> None:
    """Write model.safetensors; or, where it would be larger, several files in the order of the tensors and their index.

    Args:
        max_shard_bytes: 0 sets no limit. A tensor that is larger has a file of its own.
    """
    sizes = {name: tensor.nbytes for name, tensor in weights.items()}
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in weights.items():
        if shards[-1] and max_shard_bytes and filled + sizes[name] > max_shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += sizes[name]
    if len(shards) == 1:
        write_safetensors(weights, Path(folder) / "model.safetensors")
        return
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards):
        write_safetensors(shard, Path(folder) / file)
    write_json({"metadata": {"total_size": sum(sizes.values())},
                "weight_map": {name: file for file, shard in zip(files, shards) for name in shard}},
               Path(folder) / "model.safetensors.index.json")


def bytes_of(text: str, flag_name: str) -> int:
    """A size as transformers' `max_shard_size` writes it: "5GB" -> 5,000,000,000, "1MiB" -> 1,048,576; "" -> 0.

    Raises:
        UserError: it is none.
    """
    found = re.fullmatch(r"(\d+)(K|M|G)(i?)B", text, re.IGNORECASE)
    if not found and text:
        raise UserError(f"{flag_name} {text}: a size such as 5GB or 500MB is needed")
    return int(found[1]) * (1024 if found[3] else 1000) ** " KMG".index(found[2].upper()) if found else 0


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
