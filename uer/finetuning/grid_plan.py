"""The points of a grid, and the trials that they make."""

import dataclasses
from dataclasses import dataclass
from itertools import product
from typing import Any

from uer.finetuning.config import GridConfig
from uer.finetuning.rows import content_hash
from uer.text import amount


@dataclass(frozen=True)
class Setting:
    """One point of the grid."""

    batch_size: int
    learning_rate: float
    epochs_num: int

    def __str__(self) -> str:
        return f"batch {self.batch_size}, rate {self.learning_rate:g}, {amount(self.epochs_num, 'epoch')}"


@dataclass(frozen=True)
class Plan:
    """A trial that has to be run."""

    setting: Setting
    seed: int
    key: str

    def __str__(self) -> str:
        return f"{self.setting}, seed {self.seed}"


def settings_of(config: GridConfig) -> list[Setting]:
    """The grid's points, longest trainings first, so that the last trials to finish are short; then by batch size and
    rate, so that the order does not depend on how the lists are written."""
    points = product(config.epochs_num_list, config.batch_size_list, config.learning_rate_list)
    unique = dict.fromkeys(Setting(batch, rate, epochs) for epochs, batch, rate in points)
    return sorted(unique, key=lambda setting: (-setting.epochs_num, setting.batch_size, setting.learning_rate))


def plan_of(setting: Setting, seed: int, shared: dict[str, Any]) -> Plan:
    """The trial of a setting and a seed; its key covers everything that decides its figures (see `decides`)."""
    return Plan(setting, seed, content_hash({**shared, **dataclasses.asdict(setting), "seed": seed})[:16])
