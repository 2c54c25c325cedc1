"""Log lines: to the terminal without tearing a progress bar, and to `--log_path`."""

import contextlib
import logging
import sys

from tqdm import tqdm

from uer.config import LogConfig
from uer.errors import UserError
from uer.files import prepare_file
from uer.reading import naming

PREFIX = "[%(asctime)s %(levelname)s]"
TIME = "%Y-%m-%d %H:%M:%S"


def set_up_logging(config: LogConfig, name: str = "uer", prefix: str = PREFIX, is_main: bool = True) -> None:
    """Have the logger `name` write lines as `config` says, and nowhere else.

    Args:
        prefix: what each line begins with, in the words of `logging.Formatter`.
        is_main: other ranks than the first are silent.

    Raises:
        UserError: the log file cannot be written.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG if is_main else logging.CRITICAL)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk has ended the run before this one
            handler.close()
    wanted: list[tuple[logging.Handler, str]] = [(BarHandler(), config.log_level)]
    if config.log_path and is_main:
        prepare_file(config.log_path, "--log_path")
        # A file name whose bytes are not UTF-8 is written with escapes.
        log = LogFile(config.log_path, encoding="utf-8", errors="backslashreplace")
        wanted.append((log, config.log_file_level))
    for handler, level in wanted:
        handler.setFormatter(logging.Formatter(f"{prefix} %(message)s", TIME))
        handler.setLevel(level)
        logger.addHandler(handler)


class BarHandler(logging.Handler):
    """Prints lines without tearing the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line; an error names standard output."""
        with naming("standard output"):
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()


class LogFile(logging.FileHandler):
    """A log that cannot be written to, as on a full disk, ends the run with one line."""

    def handleError(self, record: logging.LogRecord) -> None:
        """What `emit` calls while it handles an exception."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise UserError(f"--log_path {self.baseFilename}: {error.strerror}") from None
        super().handleError(record)
