"""Distillation in pretraining: the teacher, and which sizes learn from it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uer.config import ModelConfig
from uer.errors import UserError
from uer.family.config import TeachingConfig
from uer.family.recipe import Recipe
from uer.family.sizes import Size, resolve
from uer.planning.flops import parameter_count


@dataclass(frozen=True)
class Teaching:
    """A teacher and the settings of the distillation.

    Attributes:
        size: its name and architecture.
        model_path: its weights; None if the teacher is a size of this family.
        parameters: its number of parameters; sizes with fewer parameters learn from it.
        soft_alpha: weight of the distillation loss.
        soft_temperature: temperature of both models' logits in the distillation loss.
    """

    size: Size
    model_path: str | None
    parameters: int
    soft_alpha: float
    soft_temperature: float

    def teaches(self, size: Size, vocab_size: int) -> bool:
        """Whether a size is smaller than the teacher."""
        return parameter_count(size.config, vocab_size) < self.parameters

    def waits_for(self) -> str:
        """Name of the size that has to be finished before its students start; "" for a checkpoint from elsewhere."""
        return "" if self.model_path else self.size.name

    def facts(self) -> dict[str, Any]:
        """What `family.json` says about the teacher."""
        path = Path(self.model_path) if self.model_path else None
        return {"teacher": {"file": path.name, "bytes": path.stat().st_size} if path else self.size.name,
                "soft_alpha": self.soft_alpha, "soft_temperature": self.soft_temperature}

    def describe(self) -> str:
        """`L-12_H-768 (soft_alpha 0.5, soft_temperature 1)`"""
        return f"{self.size.name} (soft_alpha {self.soft_alpha:g}, soft_temperature {self.soft_temperature:g})"


def build_teaching(config: TeachingConfig, recipe: Recipe, vocab_size: int, config_folder: Path,
                   read: Callable[[str], ModelConfig], must_exist: bool) -> Teaching | None:
    """The teacher of the command line; None if there is none.

    Args:
        config: the flags.
        recipe: its sequences must not be longer than the teacher's position embedding.
        vocab_size: entries of the vocabulary.
        config_folder: see `uer.family.sizes.resolve`.
        read: see `uer.family.sizes.resolve`.
        must_exist: whether the file of `--teacher_model_path` must exist; `--dry_run` does not need it.

    Raises:
        UserError: there is no such size or file, or the teacher's position embedding is too short.
    """
    if config.teacher:
        found = resolve((config.teacher,), config_folder, read)
        if len(found) > 1:
            raise UserError(f"--teacher {config.teacher}: one size is needed")
        size, flag = found[0], f"--teacher {config.teacher}"
    elif config.teacher_model_path:
        path, flag = config.teacher_config_path, f"--teacher_config_path {config.teacher_config_path}"
        if must_exist and not Path(config.teacher_model_path).is_file():
            raise UserError(f"--teacher_model_path {config.teacher_model_path}: no such file")
        size = Size(Path(config.teacher_model_path).name, path, read(path))
    else:
        return None
    longest = max(stage.seq_length for stage in recipe.stages)
    if size.config.max_seq_length < longest:
        raise UserError(f"{flag}: its max_seq_length is {size.config.max_seq_length}, but there are rows of {longest}")
    return Teaching(size, config.teacher_model_path, parameter_count(size.config, vocab_size), config.soft_alpha,
                    config.soft_temperature)
