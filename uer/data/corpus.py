"""Reads the files of a corpus: text files, globs and folders, plain or compressed, as bytes.

`line_cleaner` turns the bytes into lines of text.
"""

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from uer.errors import UserError
from uer.paths import files_below

MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
UTF16 = (b"\xff\xfe", b"\xfe\xff")
ZIP = b"PK\x03\x04"
SAFETENSORS = b'{"__metadata__"'  # behind 8 bytes
PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))  # datasets of UER-py; no UTF-8 begins so
WORK_FOLDER = re.compile(r"\.work-[0-9a-f]{16}/")  # where an unfinished dataset is made
NO_TEXT = re.compile(rf"{WORK_FOLDER.pattern}|/\.")  # or a hidden file or folder
TAR_NAME = re.compile(r"\.(tar(\.\w+)?|tgz|tbz2?|txz)$", re.IGNORECASE)
GBK_BYTES = 1 << 16
FEW_DAMAGED = 5
"""So many lines, or fewer, may be GBK by chance."""
READ_BYTES = 1 << 19
LINE_END = re.compile(rb"\n")
LOOK_BACK = 4096
"""How many bytes before a position are searched for the separator of two documents."""


@dataclass(frozen=True)
class CorpusFile:
    """A file of a corpus. Size and modification time tell after a restart whether it has changed."""

    path: str
    size: int
    time: int
    compression: str
    """gzip, bzip2, xz or zstd; "" for plain text."""


@dataclass(frozen=True)
class Sample:
    """A sample of a corpus."""

    text: bytes
    expansion: float
    """Bytes of text for each byte of the files; 1 for plain ones."""


def find_files(paths: Iterable[str]) -> list[CorpusFile]:
    """The files behind `--corpus_path`: files as given, globs, and folders (with linked ones) in sorted order.

    Of folders and globs, hidden files, datasets and what unfinished ones consist of are left out; so are empty files
    beside others.

    Raises:
        UserError: a path is missing or no regular file, is UTF-16, an archive or a dataset, the largest plain file is
            GBK, or all files are empty.
    """
    files = [file for path in paths for name in _expand(path) if (file := _look_at(name, name == path))]
    if not any(file.size for file in files):
        raise UserError(f"--corpus_path {' '.join(paths)}: {'the corpus is empty' if files else 'holds only datasets'}")
    plain = [file for file in files if not file.compression]
    if plain:
        refuse_gbk(take_sample(plain, GBK_BYTES).text, largest(plain).path)
    return [file for file in files if file.size]


def _expand(path: str) -> list[str]:
    if os.path.isdir(path):
        found = sorted(name for name in files_below(path)
                       if os.path.isfile(name) and not NO_TEXT.search(name, len(path.rstrip("/"))))
        if not found:
            raise UserError(f"--corpus_path {path}: the folder holds no files")
        return found
    if not os.path.lexists(path) and glob.has_magic(path):
        found = sorted(name for name in glob.glob(path, recursive=True)
                       if os.path.isfile(name) and not WORK_FOLDER.search(name))
        if not found:
            raise UserError(f"--corpus_path {path}: no file matches")
        return found
    return [path]


def _look_at(path: str, named: bool) -> CorpusFile | None:
    """The file; None where it is a dataset, which is an error where the user has `named` it."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"--corpus_path {path}: not a regular file")
        with open(path, "rb") as file:
            start = file.read(32)
    except OSError as error:
        raise UserError(f"--corpus_path {path}: {error.strerror}") from None
    if start.startswith(SAFETENSORS, 8) or start.startswith(PICKLES):
        if named:
            raise UserError(f"--corpus_path {path}: a dataset or a model, no text")
        return None
    if start.startswith(UTF16):
        raise UserError(f"--corpus_path {path}: the text is UTF-16; convert it to UTF-8, for example with iconv")
    if start.startswith(ZIP) or TAR_NAME.search(path):
        raise UserError(f"--corpus_path {path}: an archive of files; unpack it and give its files or its folder")
    compression = next((name for magic, name in MAGIC.items() if start.startswith(magic)), "")
    promised = SUFFIXES.get(os.path.splitext(path)[1].lower(), compression)
    if start and promised != compression:
        raise UserError(f"--corpus_path {path}: named as {promised} data, but it is {compression or 'something else'}")
    return CorpusFile(os.path.abspath(path), status.st_size, status.st_mtime_ns, compression)


def open_text(file: CorpusFile) -> tuple[BinaryIO, BinaryIO]:
    """-> (a stream of decompressed bytes, the raw file, whose position tells how far the reading is)."""
    raw = open(file.path, "rb")  # noqa: SIM115 - the caller closes it
    if file.compression == "gzip":
        import gzip  # imported where needed: a plain corpus does not pay for any of these

        return gzip.GzipFile(fileobj=raw), raw
    if file.compression == "bzip2":
        import bz2

        return bz2.BZ2File(raw), raw
    if file.compression == "xz":
        import lzma

        return lzma.LZMAFile(raw), raw
    if file.compression == "zstd":
        return _open_zstd(file, raw), raw
    return raw, raw


def _open_zstd(file: CorpusFile, raw: BinaryIO) -> BinaryIO:
    """With Python's own module (from 3.14 on), or the same module as a package.

    The package zstandard is not used: its readers do not notice a file that ends inside a frame.
    """
    try:
        from compression import zstd
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raw.close()
            raise UserError(f"--corpus_path {file.path}: reading .zst needs Python 3.14 or the package backports.zstd "
                            "(pip install backports.zstd)") from None
    return zstd.ZstdFile(raw)


def read_blocks(file: CorpusFile) -> Iterator[tuple[bytes, int]]:
    """Stream a file's text as (bytes, how many bytes of the file itself have been read).

    Raises:
        UserError: the compressed data is damaged or ends too early.
    """
    stream, raw = open_text(file)
    try:
        while block := _read(stream, file):
            yield block, raw.tell()
    finally:
        stream.close()
        raw.close()


def _read(stream: BinaryIO, file: CorpusFile) -> bytes:
    try:
        return stream.read(READ_BYTES)
    except OSError as error:
        if error.errno is not None:
            raise
        reason = str(error)
    except Exception as error:  # each library has its own: EOFError, zlib.error, LZMAError, ZstdError
        if not file.compression:
            raise
        reason = str(error)
    raise UserError(f"--corpus_path {file.path}: damaged {file.compression} data: {reason}")


def largest(files: list[CorpusFile]) -> CorpusFile:
    """The file with most bytes."""
    return max(files, key=lambda file: file.size)


def take_sample(files: list[CorpusFile], size: int) -> Sample:
    """About `size` bytes of whole lines from the largest file, its beginning and, where it is plain, its middle."""
    file = largest(files)
    if file.compression:
        text, read = b"", 0
        for block, position in read_blocks(file):
            text, read = text + block, position
            if len(text) >= size:
                break
        return Sample(whole_lines(text), len(text) / max(read, 1))
    with open(file.path, "rb") as stream:
        text = whole_lines(stream.read(size // 2))
        if file.size > size:
            stream.seek(file.size // 2)
            text += whole_lines(stream.read(size // 2).partition(b"\n")[2])
    return Sample(text, 1.0)


def whole_lines(text: bytes) -> bytes:
    """Without the line that the end of the sample cuts; a sample inside one long line is kept as it is."""
    return text[:text.rfind(b"\n") + 1] or text


def refuse_gbk(sample: bytes, path: str) -> None:
    """
    Raises:
        UserError: of the lines with other than ASCII characters none is UTF-8, but all are GBK (its superset GB18030).
    """
    lines = [line for line in sample.split(b"\n") if not line.isascii()]
    if len(lines) > FEW_DAMAGED and all(_decodes(line, "gb18030") and not _decodes(line, "utf-8") for line in lines):
        raise UserError(f"--corpus_path {path}: the text seems to be GBK; convert it to UTF-8, for example with iconv "
                        "-f GB18030 -t UTF-8")


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def unchanged(file: CorpusFile) -> bool:
    """Whether the file on disk is still the one that was found."""
    try:
        status = os.stat(file.path)
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (file.size, file.time)


def stretch(path: str, start: int, stop: int, document_end: re.Pattern[bytes] = LINE_END) -> Iterator[bytes]:
    """The bytes of the documents that begin in [start, stop), streamed.

    Every document belongs to the stretch that its first byte lies in, so stretches that cover a file cover each
    document once, however long it is.

    Args:
        path: the file.
        start, stop: in bytes.
        document_end: matches what stands between two documents.
    """
    with open(path, "rb") as file:
        position, stop = (document_boundary(file, byte, document_end) for byte in (start, stop))
        file.seek(position)
        while position < stop and (block := file.read(min(READ_BYTES, stop - position))):
            position += len(block)
            yield block


def document_boundary(file: BinaryIO, position: int, document_end: re.Pattern[bytes]) -> int:
    """The first position from `position` on at which a document may begin: behind a match, or an end of the file."""
    if position == 0:
        return 0
    begin, data = max(position - LOOK_BACK, 0), b""
    file.seek(begin)
    while block := file.read(READ_BYTES):
        data += block
        for match in document_end.finditer(data):
            if begin + match.end() >= position:
                return begin + match.end()
        begin += max(len(data) - LOOK_BACK, 0)
        data = data[-LOOK_BACK:]
    return begin + len(data)
