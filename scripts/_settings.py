"""Settings that several scripts read. Not a command; needs no torch."""

from dataclasses import dataclass

from uer import cli
from uer.config import ModelConfig, flag
from uer.errors import UserError


@dataclass(frozen=True)
class _Settings:
    config_path: str | None = flag(None, "JSON file of the model's settings.", path="read")


def model_settings(path: str | None, flag: str = "--config_path") -> ModelConfig | None:
    """The ModelConfig of a JSON file; None without a file.

    Args:
        flag: the flag that names the file, for the messages.
    """
    if not path:
        return None
    try:
        return cli.parse("", (_Settings, ModelConfig), ["--config_path", path])[1]
    except UserError as error:
        raise UserError(str(error).replace("--config_path", flag)) from None
