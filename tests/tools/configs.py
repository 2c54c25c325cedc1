"""Model settings for tests."""

from typing import Any

from uer import sections
from uer.config import ModelConfig


def model_config(**settings: Any) -> ModelConfig:
    """A ModelConfig from flat settings, those of single encoders and targets among them, as a config file has them."""
    others = {name: value for name, value in settings.items() if name != "data_processor"}  # which pretrain.py reads
    return sections.from_json(ModelConfig, others, "a test's settings")
