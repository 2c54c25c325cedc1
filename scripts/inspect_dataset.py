"""Show the contents of a dataset: its settings, lengths and tokens, and samples as the trainer will see them.

    python3 scripts/inspect_dataset.py dataset.pt --vocab_path models/google_zh_vocab.txt

Several datasets are shown one after another. Without --vocab_path tokens are shown as ids and there are no samples;
without --tgt_vocab_path, too, those of a target side with a vocabulary of its own. The samples are the first rows of a
run of `pretrain.py` with the same seed on this dataset alone. Each has some of these lines:

    plain:   the source before it was masked; of bart its sentences, divided by |
    first:   or, where a row has two segments, each of them
    second:
    masked:  what the encoder reads: [MASK]; ‹a←b› is a in place of b, ‹b› is predicted but left as it is
    source:  what the encoder reads, of t5 and bart; ‹<extra_id_0>←b c› is a sentinel in place of b c
    order:   of bart, which sentences of the plain text follow one another in the source
    target:  what the decoder reads
    mlm:     the labels of this target, after their positions; "target" where these are the decoder's
    cls:     the label of the row
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
import torch

from uer import cli
from uer.config import MaskingConfig, TokenizerConfig, flag
from uer.data.batch import IGNORED, Batch, Labels, Rows
from uer.data.loader import Loader, open_processor
from uer.data.noise import shuffled_sentences
from uer.data.packed_offsets import Offsets
from uer.data.processors import Processor
from uer.data.schema import INSTANCE, VocabInfo
from uer.data.store import TokenDataset, check_instances, open_dataset
from uer.data.token_counts import occurrences
from uer.errors import UserError
from uer.targets import TARGETS
from uer.targets.base import VocabularyTarget
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
    merges_path: str | None = flag(None, "Merges file of the bpe and qwen tokenizers.", path="read")
    spm_model_path: str | None = flag(None, "SentencePiece model file, in place of --vocab_path.", path="read")
    special_tokens_map: str | None = flag(None, "JSON file that names the special tokens.", path="read")
    tgt_vocab_path: str | None = flag(None, "Vocabulary file of a target side that has its own.", path="read")
    tgt_merges_path: str | None = flag(None, "Merges file of the target side.", path="read")
    tgt_spm_model_path: str | None = flag(None, "SentencePiece model file of the target side.", path="read")
    tgt_special_tokens_map: str | None = flag(None, "JSON file that names the special tokens of the target side.",
                                              path="read")
    samples_num: int = flag(3, "Number of samples to show.")
    tokens_num: int = flag(20, "Number of most frequent tokens to list.")
    seed: int = flag(7, "Seed of the order and of dynamic masks, as for pretrain.py.")

    def problems(self) -> list[str]:
        return [f"--{name} must not be negative" for name in ("samples_num", "tokens_num", "seed")
                if getattr(self, name) < 0]


@dataclass(frozen=True)
class Words:
    """How the ids of a sequence are shown."""

    entries: list[str]
    """By id: the vocabulary's entries, or the ids as text where it is not known."""
    tokenizer: Tokenizer | None
    """Whose vocabulary it is; None where it is not known."""

    def text(self, tokens: list[str]) -> str:
        """Tokens as text."""
        return joined(tokens, self.tokenizer) if self.tokenizer else " ".join(tokens)

    def of(self, ids: list[int]) -> list[str]:
        """The entries of some ids."""
        return [self.entries[index] for index in ids]


def main() -> None:
    config, masking = cli.parse(__doc__, (InspectConfig, MaskingConfig))
    for path in config.dataset_path:
        dataset = open_dataset(path)
        axes = words_of(dataset, config)
        processor = open_processor([dataset], masking) if len(dataset) else None
        sections = [metadata_lines(dataset), *(length_lines(dataset, axis, processor) for axis in axes),
                    *(token_lines(dataset, axis, words.entries, config.tokens_num) for axis, words in axes.items()),
                    sample_lines(dataset, axes, processor, config) if processor and axes["src"].tokenizer else []]
        print("\n".join(line for section in sections for line in section))


def words_of(dataset: TokenDataset, config: InspectConfig) -> dict[str, Words]:
    """For each sequence, how its ids are shown: by the vocabulary that the flags name for it.

    Raises:
        UserError: a vocabulary cannot be read, or is not the dataset's.
    """
    given = {vocab: prefix for vocab, prefix in (("src", ""), ("tgt", "tgt_")) if vocab in dataset.info.vocabs
             and (getattr(config, f"{prefix}vocab_path") or getattr(config, f"{prefix}spm_model_path"))}
    known = {vocab: tokenizer_of(dataset, vocab, prefix, config) for vocab, prefix in given.items()}
    found = {}
    for axis in dataset.offsets:
        info = vocab_of(dataset, axis)
        fitting = (one for one in known.values() if one.vocab.fingerprint == info.fingerprint)
        tokenizer = known.get(dataset.info.schema[axis].vocab) or next(fitting, None)
        found[axis] = Words(tokenizer.vocab.tokens if tokenizer else [str(index) for index in range(info.size)],
                            tokenizer)
    return found


def tokenizer_of(dataset: TokenDataset, vocab: str, prefix: str, config: InspectConfig) -> Tokenizer:
    """The tokenizer of a vocabulary ("src" or "tgt"), which the flags with this prefix name.

    Raises:
        UserError: it cannot be read, or is not the dataset's vocabulary.
    """
    info, names = dataset.info.vocabs[vocab], ("vocab_path", "merges_path", "spm_model_path", "special_tokens_map")
    values = {name: getattr(config, f"{prefix}{name}") for name in names}
    tokenizer = build_tokenizer(TokenizerConfig(info.tokenizer.get("kind", "bert"), **values))
    if tokenizer.vocab.fingerprint != info.fingerprint:
        named = "spm_model_path" if values["spm_model_path"] else "vocab_path"
        raise UserError(f"--{prefix}{named} {values[named]} is not the vocabulary that {dataset.path} was made with")
    return tokenizer


def vocab_of(dataset: TokenDataset, axis: str) -> VocabInfo:
    """The vocabulary of a sequence."""
    return dataset.info.vocabs[dataset.info.schema[axis].vocab]


def metadata_lines(dataset: TokenDataset) -> list[str]:
    """The file and every field of its metadata."""
    lines = [f"{dataset.path}: {dataset.path.stat().st_size:,} bytes", ""]
    for name, value in dataclasses.asdict(dataset.info).items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"{name:<20}{shown}")
    columns = [f"{name} {array.dtype}" + " an instance" * (dataset.info.schema[name].axis == INSTANCE)
               for name, array in dataset.columns.items()]
    return [*lines, f"{'columns':<20}" + ", ".join(columns)]


def length_lines(dataset: TokenDataset, axis: str, processor: Processor | None) -> list[str]:
    """Histogram of the lengths of a sequence, and how much of a batch will be padding.

    A batch may have fewer positions than an instance has tokens: lm and mt store one token more, the label of the last
    position.

    Args:
        processor: of the dataset; None where it is empty.
    """
    size, stored, tokens = dataset.info.lengths[axis], len(dataset), len(dataset.columns[axis])
    counts = np.zeros(size + 1, np.int64)
    for piece in pieces(dataset.offsets[axis], overlap=1):
        check_instances(dataset, axis, piece)
        counts += np.bincount(np.diff(piece), minlength=size + 1)
    edges = sorted({round(size * part / BUCKETS) for part in range(BUCKETS)} | {size - 1, size})
    rows = [(first + 1, last, int(counts[first + 1:last + 1].sum())) for first, last in pairwise(edges)]
    most = max(count for _, _, count in rows) or 1
    width = processor.batch_lengths()[axis] if processor else size
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
        counts += occurrences(dataset, piece, len(entries))
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


def sample_lines(dataset: TokenDataset, axes: dict[str, Words], processor: Processor, config: InspectConfig
                 ) -> list[str]:
    """The first rows of training.

    Args:
        axes: for each sequence, how its ids are shown.
        processor: of the dataset.
    """
    if not config.samples_num:
        return []
    kept = keep_rows(processor)
    (batch,) = Loader([dataset], processor, batch_size=config.samples_num, seed=config.seed).step(0)
    lines = [""]
    for row in range(config.samples_num):
        shown = Sample(batch.rows(row, row + 1).trimmed(), stored_row(kept[0], row), axes)
        lines += [f"sample {row}", *(f"  {name + ':':<7} {text}" for name, text in shown.lines().items())]
    return lines


def keep_rows(processor: Processor) -> list[Rows]:
    """A list to which the processor will add the rows of every batch that it makes, as they are stored."""
    kept, make = [], processor.batch

    def batch(rows: Rows) -> Batch:
        kept.append(dataclasses.replace(rows, columns={name: part.clone() for name, part in rows.columns.items()}))
        return make(rows)

    processor.batch = batch
    return kept


def stored_row(rows: Rows, row: int) -> Rows:
    """One of the rows."""
    def one(part: torch.Tensor) -> torch.Tensor:
        return part[row:row + 1]

    return Rows({name: one(part) for name, part in rows.columns.items()},
                {axis: one(part) for axis, part in rows.lengths.items()}, one(rows.keys), one(rows.samples))


@dataclass(frozen=True)
class Sample:
    """One row: its batch, how it is stored, and how the ids of its sequences are shown."""

    batch: Batch
    rows: Rows
    axes: dict[str, Words]

    def lines(self) -> dict[str, str]:
        """What is shown, by the names of the module's docstring."""
        words, source = self.axes["src"], self.axes["src"].of(self.batch.src.values[0].tolist())
        if self.batch.tgt is not None and "tgt" not in self.axes:  # the target side is made of the source
            texts = {"plain": self.sentences(), "source": self.with_spans(source), **self.order()}
        else:
            plain, masked = self.masked(source)
            texts = {**self.segments(plain), **({"masked": masked} if "mlm" in self.batch.labels else {})}
        lines = {name: words.text(text) for name, text in texts.items()}
        if self.batch.tgt is not None:
            words = self.words("tgt")
            lines["target"] = words.text(words.of(self.batch.tgt.values[0].tolist()))
        for name, labels in self.batch.labels.items():
            lines |= self.label_lines(name, labels)
        return lines

    def words(self, side: str) -> Words:
        """How the ids of a side of the batch are shown."""
        return self.axes.get(side, self.axes["src"])

    def segments(self, tokens: list[str]) -> dict[str, list[str]]:
        """The source, or its two segments."""
        parts = self.batch.src.seg[0].tolist()
        if 2 not in parts:
            return {"plain": tokens}
        return {"first": tokens[:parts.index(2)], "second": tokens[parts.index(2):]}

    def masked(self, tokens: list[str]) -> tuple[list[str], list[str]]:
        """-> the source before masking; the source as it is shown masked."""
        plain, shown, words = list(tokens), list(tokens), self.axes["src"]
        if "mlm" in self.batch.labels:
            for position, (label,) in labelled(self.batch.labels["mlm"]):
                plain[position], read = words.entries[label], tokens[position]
                if read == plain[position]:
                    shown[position] = f"‹{read}›"
                elif read != words.entries[words.tokenizer.vocab.mask_id]:
                    shown[position] = f"‹{read}←{plain[position]}›"
        return plain, shown

    def sentences(self) -> list[str]:
        """The source as it is stored, with | between sentences."""
        length = int(self.rows.lengths["src"])
        tokens = self.axes["src"].of(self.rows.columns["src"][0, :length].tolist())
        if "sentence_start" not in self.rows.columns:
            return tokens
        starts = self.rows.columns["sentence_start"][0, :length].tolist()
        starts[:2] = starts[-1:] = []  # of [CLS], the first sentence and [SEP]
        return [*tokens[:2], *(part for token, start in zip(tokens[2:-1], starts)
                               for part in (["|"] * start + [token])), *tokens[-1:]]

    def order(self) -> dict[str, list[str]]:
        """The numbers of the sentences in the order of the source, counted from 1."""
        if "sentence_start" not in self.rows.columns:
            return {}
        starts, length = self.rows.columns["sentence_start"], self.rows.lengths["src"]
        numbers = starts.cumsum(1).gather(1, shuffled_sentences(starts, length, self.rows.keys))[0, 1:int(length) - 1]
        return {"order": [str(number - 1) for number in numbers.unique_consecutive().tolist()]}

    def with_spans(self, tokens: list[str]) -> list[str]:
        """The source with each sentinel as ‹sentinel←what it hides›, as the decoder's input tells it."""
        special = self.axes["src"].tokenizer.vocab.special_ids
        if "last_sentinel" not in special:
            return tokens
        sentinels = set(self.axes["src"].of(list(range(special["sentinel"], special["last_sentinel"] + 1))))
        spans, name = {}, ""
        for token in self.axes["src"].of(self.batch.tgt.values[0, 1:].tolist()):
            name = token if token in sentinels else name
            spans.setdefault(name, []).extend([token] * (token != name))
        return [f"‹{token}←{self.axes['src'].text(spans[token])}›" if spans.get(token) else token
                for token in tokens]

    def label_lines(self, name: str, labels: Labels) -> dict[str, str]:
        """What a target predicts in the row: the label of the row, or entries after their positions."""
        found = labelled(labels)
        if not found:
            return {name: "not predicted"}
        if not issubclass(TARGETS[name], VocabularyTarget):
            return {name: " ".join(map(str, found[0][1]))}
        side, several = "target " if labels.side == "tgt" else "", len(found[0][1]) > 1
        return {f"{name}[{part}]" if several else name: side + self.runs(
            [(position, values[part]) for position, values in found if values[part] != IGNORED], labels.side)
            for part in range(len(found[0][1]))}

    def runs(self, labels: list[tuple[int, int]], side: str) -> str:
        """Labels at neighbouring positions together: [(2, a), (3, b), (7, c)] -> "2-3 ab, 7 c"."""
        parts = []
        for _, group in groupby(enumerate(labels), lambda item: item[1][0] - item[0]):
            positions, ids = zip(*(label for _, label in group))
            last = f"-{positions[-1]}" if len(positions) > 1 else ""
            parts.append(f"{positions[0]}{last} {self.words(side).text(self.words(side).of(ids))}")
        return ", ".join(parts)


def labelled(labels: Labels) -> list[tuple[int, tuple[int, ...]]]:
    """Of a batch of one row, the positions where something is predicted, ascending, and the values there."""
    wanted = labels.wanted()[0]  # (P,) or (S,)
    positions = torch.arange(len(wanted)) if labels.positions is None else labels.positions[0]
    values = labels.values[0].reshape(len(wanted), -1)
    return sorted(zip(positions[wanted].tolist(), map(tuple, values[wanted].tolist())))


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
