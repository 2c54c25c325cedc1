"""Show the contents of a dataset: its settings, lengths and tokens, and samples as the trainer will see them.

    python3 scripts/inspect_dataset.py dataset.pt --vocab_path models/google_zh_vocab.txt

Several datasets are shown one after another. Without --vocab_path tokens are shown as ids. The masked samples are the
first rows of a run of `pretrain.py` with the same seed on this dataset alone.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from uer import cli
from uer.config import MaskingConfig, flag
from uer.data.loader import Loader
from uer.data.packed_offsets import Offsets
from uer.data.processors import PLANNED, PROCESSORS
from uer.data.store import DatasetInfo, TokenDataset, open_dataset
from uer.errors import UserError
from uer.registry import choose
from uer.tokenizers import Vocab
from uer.tokenizers.fetch import ensure_vocab

VALUES_AT_ONCE = 1 << 22
BAR_WIDTH = 40
BUCKETS = 8


@dataclass(frozen=True)
class InspectConfig:
    """The datasets, and how much of them is shown."""

    dataset_path: tuple[str, ...] = flag(("dataset.pt",), "Datasets made by preprocess.py.", positional=True,
                                         path="read")
    vocab_path: str | None = flag(None, "Vocabulary file, to show tokens as text.", path="read")
    samples_num: int = flag(3, "Number of samples to show.")
    tokens_num: int = flag(20, "Number of most frequent tokens to list.")
    seed: int = flag(7, "Seed of the order and of dynamic masks, as for pretrain.py.")

    def problems(self) -> list[str]:
        return [f"--{name} must not be negative" for name in ("samples_num", "tokens_num") if getattr(self, name) < 0]


def main() -> None:
    config, masking = cli.parse(__doc__, (InspectConfig, MaskingConfig))
    vocab = Vocab.load(ensure_vocab(config.vocab_path)) if config.vocab_path else None
    for path in config.dataset_path:
        dataset = open_dataset(path)
        if vocab and vocab.fingerprint != dataset.info.vocab_fingerprint:
            raise UserError(f"--vocab_path {config.vocab_path} is not the vocabulary that {path} was made with")
        entries = vocab.tokens if vocab else [str(index) for index in range(dataset.info.vocab_size)]
        sections = (metadata_lines(dataset), length_lines(dataset), token_lines(dataset, entries, config.tokens_num),
                    sample_lines(dataset, entries, masking, config) if vocab else [])
        print("\n".join(line for section in sections for line in section))


def metadata_lines(dataset: TokenDataset) -> list[str]:
    """The file and every field of its metadata."""
    lines = [f"{dataset.path}: {dataset.path.stat().st_size:,} bytes", ""]
    for field in dataclasses.fields(DatasetInfo):
        value = getattr(dataset.info, field.name)
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"{field.name:<20}{shown}")
    columns = {"tokens": dataset.tokens, **dataset.columns}
    return [*lines, f"{'columns':<20}" + ", ".join(f"{name} {array.dtype}" for name, array in columns.items())]


def length_lines(dataset: TokenDataset) -> list[str]:
    """Histogram of instance lengths, and the expected part of padding in a batch."""
    size, stored, tokens = dataset.info.seq_length, len(dataset), len(dataset.tokens)
    counts = np.zeros(size + 1, np.int64)
    for piece in pieces(dataset.offsets, overlap=1):
        counts += np.bincount(np.diff(piece), minlength=size + 1)
    edges = sorted({round(size * part / BUCKETS) for part in range(BUCKETS)} | {size - 1, size})
    rows = [(first + 1, last, int(counts[first + 1:last + 1].sum())) for first, last in pairwise(edges)]
    most = max(count for _, _, count in rows) or 1
    lines = ["", f"lengths of {stored:,} instances"]
    for first, last, count in rows:
        name = f"{first}-{last}" if first < last else f"{last}"
        lines.append(f"{name:>9} {'█' * round(BAR_WIDTH * count / most):<{BAR_WIDTH}} {count:,} "
                     f"({count / max(stored, 1):.1%})")
    return [*lines, f"mean length {tokens / max(stored, 1):.1f}; padding in batches of {size} positions: "
                    f"{1 - tokens / max(stored * size, 1):.1%}"]


def token_lines(dataset: TokenDataset, entries: list[str], shown: int) -> list[str]:
    """Number of different tokens, the most frequent ones, and the part of unknown tokens."""
    counts = np.zeros(len(entries), np.int64)
    for piece in pieces(dataset.tokens):
        found = np.bincount(piece, minlength=len(entries))
        if len(found) > len(entries):
            raise UserError(f"{dataset.path}: a token id is {len(found) - 1}, beyond the vocabulary's {len(entries)}")
        counts += found
    total = max(int(counts.sum()), 1)
    unknown = int(counts[dataset.info.special_ids["unk"]])
    order = np.argsort(-counts, kind="stable")[:shown]
    commonest = "  ".join(f"{entries[index]} {counts[index] / total:.2%}" for index in order if counts[index])
    return ["", f"tokens: {total:,}; {np.count_nonzero(counts):,} of {len(entries):,} entries occur; "
                f"unknown {unknown:,} ({unknown / total:.3%})", f"commonest: {commonest}"]


def pieces(array: np.ndarray | Offsets, overlap: int = 0) -> Iterator[np.ndarray]:
    """A memory-mapped column in pieces; each piece starts with the last `overlap` values of the piece before."""
    for start in range(0, max(len(array) - overlap, 0), VALUES_AT_ONCE):
        yield array[start:start + VALUES_AT_ONCE + overlap]


def sample_lines(dataset: TokenDataset, entries: list[str], masking: MaskingConfig, config: InspectConfig) -> list[str]:
    """The first rows of training, plain and masked.

    A predicted token that is not [MASK] stands as ‹shown←original›, or ‹kept› where it was left as it is.
    """
    if not config.samples_num or not len(dataset):
        return []
    processor = choose(PROCESSORS, dataset.info.processor, f"{dataset.path}: processor", PLANNED)()
    loader = Loader([dataset], processor, masking, batch_size=config.samples_num, seed=config.seed)
    (batch,) = loader.step(0)
    lines = [""]
    mask = entries[dataset.info.special_ids["mask"]]
    for row in range(config.samples_num):
        tokens = [entries[index] for index in batch.src[row, :int(batch.real_tokens[row])]]
        plain = list(tokens)
        places, labels = (batch.targets[name][row].tolist() for name in ("mlm_positions", "mlm_labels"))
        for place, label in zip(places, labels):
            if label < 0:
                continue
            plain[place] = entries[label]
            if tokens[place] == plain[place]:
                tokens[place] = f"‹{tokens[place]}›"
            elif tokens[place] != mask:
                tokens[place] = f"‹{tokens[place]}←{plain[place]}›"
        lines += [f"sample {row}", f"  plain:  {joined(plain)}", f"  masked: {joined(tokens)}"]
    return lines


def joined(tokens: list[str]) -> str:
    """Tokens as text: single characters without spaces between them, other tokens between spaces."""
    text = ""
    for token in tokens:
        apart = len(token) > 1 or (token.isascii() and token.isalnum())
        text += f" {token} " if apart else token
    return " ".join(text.split()).replace(" ##", "")


if __name__ == "__main__":
    cli.run(main)
