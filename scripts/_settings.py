"""Settings that several scripts read. Not a command; needs no torch."""

from dataclasses import dataclass

from uer import cli
from uer.config import ModelConfig, flag


@dataclass(frozen=True)
class _Settings:
    config_path: str | None = flag(None, "JSON file of the model's settings.", path="read")


def model_settings(path: str | None) -> ModelConfig | None:
    """The ModelConfig of a JSON file; None without a file."""
    return cli.parse("", (_Settings, ModelConfig), ["--config_path", path])[1] if path else None
