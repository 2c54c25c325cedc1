"""Checks that a command does not overwrite a file that it reads.

Each path flag declares what the command does with the path (`uer.config.PATHS`). A section with files of further names
(the checkpoints `<path>-<step>`, the settings of a fine-tuned model) adds them by methods:

    def reads(self) -> list[File]:      # files beside those that the flags name
    def writes(self) -> list[File]:

Files are compared by device and inode, so that links and other spellings of a path are recognized.
"""

import dataclasses
import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SPECIAL_TOKENS = "special_tokens_map.json"  # read from the folder of a vocabulary

# What is read of a model's folder, Hugging Face's or a fine-tuned model's; its user may keep predictions there too.
MODEL_FILE = re.compile(r".*\.(safetensors|model)|.*(config|index)\.json|pytorch_model.*\.bin|"
                        r"(vocab|merges)\.(txt|json)|(tokenizer|added_tokens|special_tokens_map)\.json|"
                        r"model\.(bin|json|vocab\.txt)")


class File(NamedTuple):
    """A path and the flag that it comes from, such as ("--vocab_path", "models/google_zh_vocab.txt")."""

    flag: str
    path: str


def path_problems(sections: Sequence[Any]) -> list[str]:
    """What is wrong with the outputs of a command, one line each.

    Args:
        sections: the command's settings, instances of config classes.
    """
    written = list(_written(sections))
    prefixes = [file for section in sections for file in _flagged(section, ("write_prefix",))]
    appended = {file.path for section in sections for file in _flagged(section, ("append",))}
    found = [line for file in [*written, *prefixes] if (line := _unwritable(file, appended))]
    found += [f"{one.flag} and {other.flag} name the same file, {one.path}" for one, other in _same(written)]
    outputs: dict[tuple[int, int], File] = {}
    for file in written:
        if (identity := _identity(file.path)) is not None:
            outputs.setdefault(identity, file)
    for file in _read(sections) if outputs else ():
        if (output := outputs.get(_identity(file.path))) is not None:
            found.append(f"{output.flag}: {output.path} is read by this command ({file.flag}) and would be overwritten")
    return list(dict.fromkeys(found))


def existing(folder: str | os.PathLike, name: Any) -> list[Path]:
    """The files of `folder` whose whole name the compiled pattern `name` matches; none where there is no folder."""
    try:
        return [Path(folder) / entry for entry in os.listdir(folder) if name.fullmatch(entry)]
    except OSError:
        return []


def files_behind(paths: Iterable[str]) -> list[str]:
    """The files that a corpus's paths stand for: files, folders with their subfolders, and globs."""
    found = []
    for path in paths:
        names = [path] if os.path.lexists(path) else glob.glob(path, recursive=True)
        for name in names:
            found += list(files_below(name)) or [name]
    return found


def files_below(folder: str) -> Iterator[str]:
    """The files of a folder and its subfolders, linked ones too; each folder once, since links may make a circle."""
    seen = set()
    for current, subfolders, files in os.walk(folder, followlinks=True):
        status = os.stat(current)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (os.path.join(current, file) for file in files)


def _flagged(section: Any, kinds: tuple[str, ...]) -> Iterator[File]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if field.metadata.get("path") in kinds and value:
            for path in value if isinstance(value, tuple) else (value,):
                yield File(f"--{field.name}", path)


def _written(sections: Sequence[Any]) -> Iterator[File]:
    for section in sections:
        yield from _flagged(section, ("write", "append"))
        yield from (file for file in _flagged(section, ("write_model",)) if not _is_folder(file.path))
        yield from section.writes() if hasattr(section, "writes") else ()


def _read(sections: Sequence[Any]) -> Iterator[File]:
    for section in sections:
        for file in _flagged(section, ("read",)):
            yield file
            if file.flag.endswith("vocab_path"):
                yield File(file.flag, str(Path(file.path).with_name(SPECIAL_TOKENS)))
            elif file.flag != "--corpus_path":  # a folder of a corpus may hold what is made of it
                yield from (File(file.flag, path) for path in _files_of(file.path)
                            if not file.flag.endswith("model_path") or MODEL_FILE.fullmatch(Path(path).name))
        yield from section.reads() if hasattr(section, "reads") else ()


def _files_of(folder: str) -> Iterable[str]:
    try:
        return [entry.path for entry in os.scandir(folder) if entry.is_file()] if os.path.isdir(folder) else []
    except OSError:
        return []


def _unwritable(file: File, appended: set[str]) -> str:
    """Why nothing can be written there: "" where it can, as far as the path itself tells.

    A device, such as /dev/stderr, can be appended to, but not replaced.
    """
    if _is_folder(file.path):
        return f"{file.flag} {file.path}: is a folder; a file name is needed"
    if os.path.exists(file.path) and not os.path.isfile(file.path) and file.path not in appended:
        return f"{file.flag} {file.path}: is not a regular file"
    return ""


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) or path.endswith("/")


def _same(files: Sequence[File]) -> Iterator[tuple[File, File]]:
    """Pairs of outputs that are one file, by different flags."""
    seen: dict[str, File] = {}
    for file in files:
        first = seen.setdefault(os.path.realpath(file.path), file)
        if first.flag != file.flag:
            yield first, file


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of a regular file; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
