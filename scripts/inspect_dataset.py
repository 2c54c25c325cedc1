"""Show the contents of a dataset: its settings, lengths and tokens, and samples as the trainer will see them.

    python3 scripts/inspect_dataset.py dataset.pt --vocab_path models/google_zh_vocab.txt

Several datasets are shown one after another. Without --vocab_path tokens are shown as ids, and so are those of a target
side with a vocabulary of its own. The samples are the first rows of a run of `pretrain.py` with the same seed on this
dataset alone; behind them stands the label of each target that has one for a whole row, such as `sp`.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from uer import cli
from uer.config import MaskingConfig, TokenizerConfig, flag
from uer.data.batch import IGNORED, Batch
from uer.data.loader import Loader, open_processor
from uer.data.packed_offsets import Offsets
from uer.data.schema import INSTANCE, VocabInfo
from uer.data.store import TokenDataset, open_dataset
from uer.errors import UserError
from uer.tokenizers import Tokenizer, build_tokenizer

VALUES_AT_ONCE = 1 << 22
BAR_WIDTH = 40
BUCKETS = 8


@dataclass(frozen=True)
class InspectConfig:
    """The datasets, and how much of them is shown."""

    dataset_path: tuple[str, ...] = flag(("dataset.pt",), "Datasets made by preprocess.py.", positional=True,
                                         path="read")
    vocab_path: str | None = flag(None, "Vocabulary file, to show tokens as text.", path="read")
    merges_path: str | None = flag(None, "Merges file of the bpe tokenizer.", path="read")
    spm_model_path: str | None = flag(None, "SentencePiece model file, in place of --vocab_path.", path="read")
    special_tokens_map: str | None = flag(None, "JSON file that names the special tokens.", path="read")
    samples_num: int = flag(3, "Number of samples to show.")
    tokens_num: int = flag(20, "Number of most frequent tokens to list.")
    seed: int = flag(7, "Seed of the order and of dynamic masks, as for pretrain.py.")

    def problems(self) -> list[str]:
        return [f"--{name} must not be negative" for name in ("samples_num", "tokens_num") if getattr(self, name) < 0]


def main() -> None:
    config, masking = cli.parse(__doc__, (InspectConfig, MaskingConfig))
    for path in config.dataset_path:
        dataset = open_dataset(path)
        tokenizer = tokenizer_of(dataset, config) if config.vocab_path or config.spm_model_path else None
        axes = {axis: entries_of(dataset, axis, tokenizer) for axis in dataset.offsets}
        sections = [metadata_lines(dataset), *(length_lines(dataset, axis) for axis in axes),
                    *(token_lines(dataset, axis, entries, config.tokens_num) for axis, entries in axes.items()),
                    sample_lines(dataset, axes, tokenizer, masking, config) if tokenizer else []]
        print("\n".join(line for section in sections for line in section))


def tokenizer_of(dataset: TokenDataset, config: InspectConfig) -> Tokenizer:
    """The tokenizer of the source sequence, with the vocabulary that the flags name.

    Raises:
        UserError: it cannot be read, or is not the dataset's vocabulary.
    """
    info, named = dataset.info.vocab, "spm_model_path" if config.spm_model_path else "vocab_path"
    tokenizer = build_tokenizer(TokenizerConfig(info.tokenizer.get("kind", "bert"), config.vocab_path,
                                                config.merges_path, config.spm_model_path, config.special_tokens_map))
    if tokenizer.vocab.fingerprint != info.fingerprint:
        raise UserError(f"--{named} {getattr(config, named)} is not the vocabulary that {dataset.path} was made with")
    return tokenizer


def vocab_of(dataset: TokenDataset, axis: str) -> VocabInfo:
    """The vocabulary of a sequence."""
    return dataset.info.vocabs[dataset.info.schema[axis].vocab]


def entries_of(dataset: TokenDataset, axis: str, tokenizer: Tokenizer | None) -> list[str]:
    """How the ids of a sequence are shown: as the vocabulary's entries where it is theirs, else as numbers."""
    info = vocab_of(dataset, axis)
    known = tokenizer is not None and tokenizer.vocab.fingerprint == info.fingerprint
    return tokenizer.vocab.tokens if known else [str(index) for index in range(info.size)]


def metadata_lines(dataset: TokenDataset) -> list[str]:
    """The file and every field of its metadata."""
    lines = [f"{dataset.path}: {dataset.path.stat().st_size:,} bytes", ""]
    for name, value in dataclasses.asdict(dataset.info).items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"{name:<20}{shown}")
    columns = [f"{name} {array.dtype}" + " an instance" * (dataset.info.schema[name].axis == INSTANCE)
               for name, array in dataset.columns.items()]
    return [*lines, f"{'columns':<20}" + ", ".join(columns)]


def length_lines(dataset: TokenDataset, axis: str) -> list[str]:
    """Histogram of the lengths of a sequence, and how much of a batch will be padding.

    A batch has at most --seq_length positions, where lm stores one token more: the label of the last position.
    """
    size, stored, tokens = dataset.info.lengths[axis], len(dataset), len(dataset.columns[axis])
    counts = np.zeros(size + 1, np.int64)
    for piece in pieces(dataset.offsets[axis], overlap=1):
        counts += np.bincount(np.diff(piece), minlength=size + 1)
    edges = sorted({round(size * part / BUCKETS) for part in range(BUCKETS)} | {size - 1, size})
    rows = [(first + 1, last, int(counts[first + 1:last + 1].sum())) for first, last in pairwise(edges)]
    most = max(count for _, _, count in rows) or 1
    width = dataset.info.seq_length if axis == "src" else size
    real = int((counts * np.minimum(np.arange(size + 1), width)).sum())
    lines = ["", f"lengths of {stored:,} instances" + f", {axis}" * (len(dataset.offsets) > 1)]
    for first, last, count in rows:
        name = f"{first}-{last}" if first < last else f"{last}"
        lines.append(f"{name:>9} {'█' * round(BAR_WIDTH * count / most):<{BAR_WIDTH}} {count:,} "
                     f"({count / max(stored, 1):.1%})")
    return [*lines, f"mean length {tokens / max(stored, 1):.1f}; padding in batches of {width} positions: "
                    f"{1 - real / max(stored * width, 1):.1%}"]


def token_lines(dataset: TokenDataset, axis: str, entries: list[str], shown: int) -> list[str]:
    """How many entries occur, the commonest of them, and the share of unknown tokens."""
    counts = np.zeros(len(entries), np.int64)
    for piece in pieces(dataset.columns[axis]):
        found = np.bincount(piece, minlength=len(entries))
        if len(found) > len(entries):
            raise UserError(f"{dataset.path}: a token id is {len(found) - 1}, beyond the vocabulary's {len(entries)}")
        counts += found
    total = max(int(counts.sum()), 1)
    unk = vocab_of(dataset, axis).special_ids.get("unk")
    unknown = 0 if unk is None else int(counts[unk])
    order = np.argsort(-counts, kind="stable")[:shown]
    commonest = "  ".join(f"{entries[index]} {counts[index] / total:.2%}" for index in order if counts[index])
    name = "tokens" if len(dataset.offsets) == 1 else f"tokens of {axis}"
    return ["", f"{name}: {total:,}; {np.count_nonzero(counts):,} of {len(entries):,} entries occur; "
                f"unknown {unknown:,} ({unknown / total:.3%})", f"commonest: {commonest}"]


def pieces(array: np.ndarray | Offsets, overlap: int = 0) -> Iterator[np.ndarray]:
    """A memory-mapped column in pieces; each piece starts with the last `overlap` values of the piece before."""
    for start in range(0, max(len(array) - overlap, 0), VALUES_AT_ONCE):
        yield array[start:start + VALUES_AT_ONCE + overlap]


def sample_lines(dataset: TokenDataset, axes: dict[str, list[str]], tokenizer: Tokenizer, masking: MaskingConfig,
                 config: InspectConfig) -> list[str]:
    """The first rows of training.

    Args:
        axes: for each sequence, how its ids are shown.
    """
    if not config.samples_num or not len(dataset):
        return []
    processor = open_processor([dataset], masking)
    (batch,) = Loader([dataset], processor, batch_size=config.samples_num, seed=config.seed).step(0)
    lines = [""]
    for row in range(config.samples_num):
        lines += [f"sample {row}", *row_lines(batch.rows(row, row + 1).trimmed(), axes, tokenizer)]
    return lines


def row_lines(batch: Batch, axes: dict[str, list[str]], tokenizer: Tokenizer) -> list[str]:
    """A batch of one row: its text, with a line for each part where it has two; the text masked; labels of the row."""
    ids, parts, entries = batch.src.values[0].tolist(), batch.src.seg[0].tolist(), axes["src"]
    plain, shown = list(ids), [entries[index] for index in ids]
    if "mlm" in batch.labels:
        plain, shown = masked(ids, batch, entries, tokenizer.vocab.mask_id)
    words = [entries[index] for index in plain]
    texts = {"plain": words} if 2 not in parts else {"first": words[:parts.index(2)], "second": words[parts.index(2):]}
    if "mlm" in batch.labels:
        texts["masked"] = shown
    if batch.tgt is not None:
        texts["target"] = [axes.get("tgt", entries)[index] for index in batch.tgt.values[0].tolist()]
    lines = [f"  {name + ':':<8}{joined(text, tokenizer)}" for name, text in texts.items()]
    for name, labels in batch.labels.items():
        if labels.positions is not None and labels.values.shape[1:] == (1,) and name != "mlm":
            value = int(labels.values[0, 0])
            lines.append(f"  {name + ':':<8}{'not predicted' if value == IGNORED else value}")
    return lines


def masked(ids: list[int], batch: Batch, entries: list[str], mask_id: int) -> tuple[list[int], list[str]]:
    """-> the ids before masking; the row as it is shown masked.

    A predicted token that is not [MASK] stands as ‹shown←original›, or ‹kept› where it was left as it is.
    """
    plain, shown = list(ids), [entries[index] for index in ids]
    for position, label in zip(batch.labels["mlm"].positions[0].tolist(), batch.labels["mlm"].values[0].tolist()):
        if label == IGNORED:
            continue
        plain[position] = label
        if ids[position] == label:
            shown[position] = f"‹{entries[label]}›"
        elif ids[position] != mask_id:
            shown[position] = f"‹{shown[position]}←{entries[label]}›"
    return plain, shown


def joined(tokens: list[str], tokenizer: Tokenizer) -> str:
    """Tokens as text: single characters without spaces between them, other tokens between spaces.

    Byte-level tokens and SentencePiece's have their spaces in them: runs without special ones are decoded.
    """
    if not tokenizer.finds_words:
        return decoded(tokens, tokenizer)
    text = ""
    for token in tokens:
        if text and tokenizer.continues(token):
            text = f"{text.rstrip()}{tokenizer.surface(token)} "
        else:
            apart = len(token) > 1 or (token.isascii() and token.isalnum())
            text += f" {token} " if apart else token
    return " ".join(text.split())


def decoded(tokens: list[str], tokenizer: Tokenizer) -> str:
    """Runs of entries as text; special entries, and those that show a mask, between spaces."""
    ids, special = tokenizer.vocab.ids, set(tokenizer.vocab.special_tokens.values())
    parts = [tokenizer.decode([ids[token] for token in run]) if plain else " ".join(run)
             for plain, run in groupby(tokens, lambda token: token in ids and token not in special)]
    return " ".join(" ".join(parts).split())


if __name__ == "__main__":
    cli.run(main)
