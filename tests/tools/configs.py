"""Model settings for tests."""

from typing import Any

from uer import sections
from uer.config import ModelConfig


def model_config(**settings: Any) -> ModelConfig:
    """A ModelConfig from flat settings, those of single encoders and targets among them, as a config file has them."""
    others = ("data_processor", "labels_num")  # keys of a config file that other sections read
    return sections.from_json(ModelConfig, {name: value for name, value in settings.items() if name not in others},
                         "a test's settings")
