"""Finds the model settings of a command: in --config_path, in a Hugging Face folder, or in the files of this toolkit.

The folder of pretrain.py contains `models/bert/*.json`. A path such as `models/bert/tiny_config.json` is first searched
in the current folder, then there, so that it is also found by an installed package.
"""

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from uer import cli
from uer.config import ModelConfig
from uer.errors import UserError
from uer.sections import read_section

COMMANDS = "uer_commands"
"""The package that holds the entry scripts where they are installed."""
CONFIG_FLAGS = ("--config_path", "--teacher_config_path")
# Settings that are not taken from a Hugging Face folder, but from the command.
OF_THE_COMMAND = ("target",)
LM = ("lm",)  # but a language model's


def model_settings(path: str | os.PathLike | None, flag: str = "--config_path") -> ModelConfig | None:
    """The ModelConfig of a JSON file; None without a file.

    Args:
        path: the file.
        flag: the flag that names it, for the messages.

    Raises:
        UserError: the file cannot be read, or what it says is no model.
    """
    return read_section(ModelConfig, find_config(os.fspath(path)), flag) if path else None


def commands_folder() -> Path | None:
    """Where the entry scripts and the shipped settings are: the repository, or the installed package."""
    repository = Path(__file__).resolve().parent.parent
    if (repository / "pretrain.py").is_file() and (repository / "models" / "bert").is_dir():
        return repository
    found = importlib.util.find_spec(COMMANDS)
    return Path(next(iter(found.submodule_search_locations))) if found and found.submodule_search_locations else None


def find_config(path: str) -> str:
    """`path` where it exists, else the shipped file of this name, else `path` again."""
    if not path or os.path.isabs(path) or os.path.exists(path):
        return path
    folder = commands_folder()
    return str(folder / path) if folder and (folder / path).is_file() else path


def parse(description: str, sections: Sequence[type], argv: Sequence[str] | None = None) -> list[Any]:
    """`uer.cli.parse` for a command that builds a model.

    The settings files of this toolkit are found from any folder. If --pretrained_model_path is a Hugging Face model,
    its config.json and vocabulary replace --config_path and --vocab_path where these are not given.

    Args:
        description, sections, argv: as `uer.cli.parse` takes them.
    """
    words = [*(sys.argv[1:] if argv is None else argv)]
    told, members = _hugging_face_settings(words)
    own = [_with_defaults(section, _defaults(section, told), members) for section in sections]
    parts = cli.parse(description, own, find_configs(words))
    return [section(**{known.name: getattr(part, known.name) for known in dataclasses.fields(section)})
            for section, part in zip(sections, parts)]


def _defaults(section: type, told: Mapping[str, Any]) -> dict[str, Any]:
    """New defaults for a section: the values of `told` for its fields, and the full path of its --config_path."""
    names = {known.name for known in dataclasses.fields(section)}
    found = {name: value for name, value in told.items() if name in names}
    if "config_path" in names and "config_path" not in found and section.config_path:
        found["config_path"] = find_config(section.config_path)
    return found


def find_configs(words: Sequence[str]) -> list[str]:
    """The arguments, with full paths of this toolkit's settings files."""
    found = list(words)
    for at, word in enumerate(found):
        name, equals, value = word.partition("=")
        if equals and name in CONFIG_FLAGS:
            found[at] = f"{name}={find_config(value)}"
        elif at and found[at - 1] in CONFIG_FLAGS:
            found[at] = find_config(word)
    return found


def _given(words: Sequence[str], name: str) -> str | None:
    """The value of a flag on a command line that is not parsed yet."""
    value = None
    for at, word in enumerate(words):
        if word.startswith(f"--{name}="):
            value = word.partition("=")[2]
        elif word == f"--{name}" and at + 1 < len(words):
            value = words[at + 1]
    return value


def _hugging_face_settings(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a Hugging Face model at --pretrained_model_path, by flag names, and those of its members such as
    `has_lmtarget_bias`; {}, {} if it is no such model.

    Raises:
        UserError: nothing is there, and no vocabulary is given either.
    """
    path = _given(words, "pretrained_model_path")
    if not path:
        return {}, {}
    from uer.convert.open import folder_of, is_hugging_face, open_hugging_face  # torch takes seconds
    from uer.convert.tokenizer_files import tokenizer_settings

    without_vocab = all(_given(words, name) is None for name in ("vocab_path", "spm_model_path"))
    if not is_hugging_face(path):
        if without_vocab and not os.path.isfile(path):  # before the vocabulary that it should bring is missed
            raise UserError(f"--pretrained_model_path {path}: " + ("a folder without the config.json of a Hugging Face "
                            "model" if os.path.isdir(path) else "No such file or directory"))
        return {}, {}
    told: dict[str, Any] = {}
    members: dict[str, Any] = {}
    if _given(words, "config_path") is None:
        config = open_hugging_face(path).config
        told = {known.name: getattr(config, known.name) for known in dataclasses.fields(config)
                if "help" in known.metadata and known.name not in OF_THE_COMMAND}
        told["config_path"], members = None, config.members
        if config.target == LM:
            told["target"] = LM
    if without_vocab:
        told |= tokenizer_settings(folder_of(path))
    return told, members


def _with_defaults(section: type, values: Mapping[str, Any], members: Mapping[str, Any]) -> type:
    """The section with other defaults, of its fields and of its members' settings."""
    if not values:
        return section
    changed = [(known.name, known.type, field(default=values[known.name], metadata=known.metadata))
               for known in dataclasses.fields(section) if known.name in values]
    return dataclasses.make_dataclass(section.__name__, changed, bases=(section,), frozen=True,
                                      namespace={"__doc__": section.__doc__, "member_defaults": members})
