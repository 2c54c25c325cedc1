"""Write a vector for each line of a text file: the pooled hidden states of the last layer, as a .npy array, or, where
the name ends in .pt, as a tensor for torch.load.

Row i belongs to line i; a blank line's vector is that of an empty sentence. The file is read and the array written in
pieces, so neither has to fit into memory. --whitening_size N makes the vectors' covariance the identity and keeps the N
directions of largest variance (Su et al., 2021, arXiv:2103.15316).
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from _checkpoint import CheckpointFlags, open_both

from uer import cli
from uer.api.rows import pooled_rows
from uer.api.weights import fill, find_device
from uer.config import REQUIRED, TokenizerConfig, flag
from uer.data.line_cleaner import BYTE_ORDER_MARK
from uer.errors import UserError
from uer.files import atomic_path
from uer.finetuning.heads import SentenceEncoder
from uer.reading import require_regular
from uer.tokenizers import Tokenizer

LINES_AT_ONCE = 4096  # lines that are sorted by length together, so that batches have little padding
POOLINGS = ("first", "last", "mean", "max")


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    test_path: str = flag(REQUIRED, "A file with one sentence on each line.", path="read")
    prediction_path: str = flag(REQUIRED, "Where the vectors are written, float32, (lines, width): a tensor for "
                                          "torch.load if the name ends in .pt, else a .npy array.", path="write")
    pooling: str = flag("first", "How hidden states become one vector.", choices=POOLINGS)
    whitening_size: int | None = flag(None, "Whiten the vectors and keep this many dimensions.")
    batch_size: int = flag(64, "Sentences of a batch.")
    seq_length: int = flag(128, "Maximum length in tokens, with [CLS] and [SEP]; longer sentences are cut.")

    def problems(self) -> list[str]:
        found = [f"--{name} must be at least {least}" for name, least in (("batch_size", 1), ("seq_length", 3))
                 if getattr(self, name) < least]
        if self.whitening_size is not None and self.whitening_size < 1:
            found.append("--whitening_size must be at least 1")
        return found


def main() -> None:
    flags, source, tokenizer_config = cli.parse(__doc__, (Flags, CheckpointFlags, TokenizerConfig))
    weights, config, tokenizer = open_both(source, tokenizer_config)
    model = fill(SentenceEncoder(replace(config, pooling=flags.pooling), len(tokenizer.vocab)), weights, source.path)
    model.to(find_device(source.device))
    flags = replace(flags, seq_length=min(flags.seq_length, config.max_seq_length))
    width = flags.whitening_size or config.hidden_size
    count = count_lines(flags.test_path)
    if width > config.hidden_size:
        raise UserError(f"--whitening_size {width}: the vectors have {config.hidden_size} dimensions")
    if flags.whitening_size and count <= flags.whitening_size:
        raise UserError(f"--whitening_size {width} needs more than {width:,} lines; {flags.test_path} has {count:,}")
    with atomic_path(flags.prediction_path) as temporary:
        array = open_array(temporary, count, config.hidden_size)
        for start, vectors in features(model, tokenizer, flags):
            array[start:start + len(vectors)] = vectors
        array.flush()
        if flags.whitening_size:
            whiten(array, temporary, flags.whitening_size)
        if flags.prediction_path.endswith(".pt"):
            save_tensor(temporary)
    print(f"written: {flags.prediction_path}: {count} vectors of width {width}, pooling {flags.pooling}")


def count_lines(path: str) -> int:
    """Lines of a file, the last one with or without a line feed.

    Raises:
        UserError: the file cannot be read or is empty.
    """
    require_regular(path, "--test_path")
    count, last = 0, b"\n"
    try:
        with open(path, "rb") as file:
            if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
                file.seek(0)
            while block := file.read(1 << 20):
                count, last = count + block.count(b"\n"), block[-1:]
    except OSError as error:
        raise UserError(f"--test_path {path}: {error.strerror}") from None
    count += last != b"\n"
    if not count:
        raise UserError(f"--test_path {path}: the file is empty")
    return count


def open_array(path: Path, rows: int, width: int) -> np.memmap:
    """A new .npy file of float32, which is filled row by row; its disk space is reserved.

    Writing to a mapped file whose blocks the disk has no room for would end the process by a signal.

    Raises:
        OSError: the disk is full.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width))
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, array.offset + array.nbytes)
    return array


@torch.no_grad()
def features(model: SentenceEncoder, tokenizer: Tokenizer, flags: Flags) -> Iterator[tuple[int, np.ndarray]]:
    """(index of the first line, vectors) for each block of lines."""
    device = next(model.parameters()).device
    with open(flags.test_path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
        start = 0
        while lines := list(islice(file, LINES_AT_ONCE)):
            ids, offsets = tokenizer.encode_lines("".join(line.removesuffix("\n") + "\n" for line in lines))
            vectors = pooled_rows(ids, offsets, flags.seq_length, flags.batch_size, tokenizer.vocab,
                                  lambda batch: model(batch.to(device)), model.config.hidden_size)
            yield start, vectors
            start += len(lines)


def whiten(array: np.ndarray, path: Path, size: int) -> None:
    """Replace the array's file by one with `size` columns: (x - mean) @ U / sqrt(variances), block by block."""
    pieces = range(0, len(array), LINES_AT_ONCE)
    mean = sum(array[start:start + LINES_AT_ONCE].sum(0, dtype=np.float64) for start in pieces) / len(array)
    centred = (array[start:start + LINES_AT_ONCE] - mean for start in pieces)
    covariance = sum(piece.T @ piece for piece in centred) / len(array)
    variances, directions = np.linalg.eigh(covariance)
    best = np.argsort(variances)[::-1][:size]
    kernel = directions[:, best] / np.sqrt(np.maximum(variances[best], 1e-12))
    aside = path.with_name(path.name + ".whitened")
    try:
        result = open_array(aside, len(array), size)
        for start in pieces:
            result[start:start + LINES_AT_ONCE] = (array[start:start + LINES_AT_ONCE] - mean) @ kernel
        result.flush()
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def save_tensor(path: Path) -> None:
    """Replace the array's file by one for torch.load; the array is not read into memory as a whole."""
    aside = path.with_name(path.name + ".tensor")
    try:
        torch.save(torch.from_numpy(np.load(path, mmap_mode="c")), aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


if __name__ == "__main__":
    cli.run(main)
