"""What the scripts that generate text share; not a command."""

import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from _checkpoint import CheckpointFlags, open_checkpoint, open_tokenizer
from torch import Tensor

from uer.api.weights import fill, find_device, require_size
from uer.config import ModelConfig, TokenizerConfig, flag
from uer.convert.open import vocab_size
from uer.errors import UserError
from uer.files import atomic_path
from uer.model import Model, build_model
from uer.reading import require_regular
from uer.text import amount, duration
from uer.tokenizers import Tokenizer, build_tokenizer

SECONDS_BETWEEN_LINES = 10
OUTPUT_LAYER = "target.lm.output_layer.weight"
TGT_WORDS = "tgt_embedding.word.embedding.weight"


@dataclass(frozen=True)
class FileFlags:
    """Files"""

    test_path: str | None = flag(None, "A file with one text on each line.", path="read")
    prediction_path: str | None = flag(None, "Where each line and what was generated for it are written, in two lines.",
                                       path="write")
    batch_size: int = flag(32, "Lines of a batch.")
    seq_length: int = flag(128, "Maximum length in tokens: of a text with its continuation, or of the source side.")

    def problems(self) -> list[str]:
        found = [] if self.test_path and self.prediction_path else ["--test_path and --prediction_path are needed"]
        return found + [f"--{name} must be at least {least}" for name, least in (("batch_size", 1), ("seq_length", 2))
                        if getattr(self, name) < least]


def open_language_model(source: CheckpointFlags, tokenizer: TokenizerConfig,
                        given: ModelConfig) -> tuple[Model, Tokenizer, Tokenizer]:
    """The model with its target lm on its device, and the tokenizers of both sides.

    Raises:
        UserError: the files do not fit one another, or it is no language model.
    """
    weights, config = open_checkpoint(source, given)
    if OUTPUT_LAYER not in weights and not config.tie_weights:
        raise UserError(f"{source.path}: it has no lm head, which generates text ({OUTPUT_LAYER})")
    size = vocab_size(weights, source.path)
    words = open_tokenizer(source, tokenizer, size)
    tgt_words, tgt_size = _tgt_tokenizer(weights, config, tokenizer, words, source.path)
    model = build_model(replace(config, target=("lm",), dropout=0.0), size, tgt_vocab_size=tgt_size)
    return fill(model, weights, source.path).to(find_device(source.device)), words, tgt_words


def _tgt_tokenizer(weights: dict[str, Tensor], config: ModelConfig, tokenizer: TokenizerConfig, words: Tokenizer,
                   path: str) -> tuple[Tokenizer, int]:
    """The target side's tokenizer and the entries of its vocabulary; the source's where --tgt_vocab_path is absent."""
    size = len(weights[TGT_WORDS]) if config.decoder and TGT_WORDS in weights else len(words.vocab)
    if config.decoder and tokenizer.tgt_vocab_path:
        words = build_tokenizer(tokenizer, "tgt")
    require_size(words, size, "the vocabulary of the target side (--tgt_vocab_path)", path)
    return words, size


def read_lines(path: str) -> list[str]:
    """The lines of --test_path, without spaces at their ends."""
    require_regular(path, "--test_path")
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
            return [line.strip() for line in file]
    except OSError as error:
        raise UserError(f"--test_path {path}: {error.strerror}") from None


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which the names of the mask and of T5's sentinels stand for these tokens.

    "北[MASK]。" becomes [1266, 103, 511]; a tokenizer alone would make three tokens of the name.
    """
    known = tokenizer.vocab.special_ids
    special = [known[role] for role in ("mask",) if role in known]
    special += range(known["sentinel"], known["last_sentinel"] + 1) if "sentinel" in known else ()
    ids = {tokenizer.vocab.tokens[number]: number for number in special}
    pieces = re.split(f"({'|'.join(map(re.escape, ids))})", text) if ids else [text]
    return [number for piece in pieces for number in ([ids[piece]] if piece in ids else tokenizer.encode(piece))]


def write_texts(path: str, lines: Sequence[str], texts: Sequence[str]) -> None:
    """Write each line and then its text, which is made one line, too."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as output:
        for line, text in zip(lines, texts, strict=True):
            output.write(f"{line}\n{' '.join(text.splitlines())}\n")
    print(f"{amount(len(lines), 'line')} answered: {path}")


def shown(batches: Iterable[list[int]], total: int) -> Iterator[list[int]]:
    """The batches. Now and then standard error gets a line that says how many of the `total` lines are answered."""
    start = told = time.monotonic()
    done = 0
    for batch in batches:
        yield batch
        done, now = done + len(batch), time.monotonic()
        if now >= told + SECONDS_BETWEEN_LINES and done < total:
            told = now
            left = duration((now - start) * (total - done) / done)
            print(f"{done:,} of {total:,} lines answered, about {left} left", file=sys.stderr, flush=True)


def batches(prompts: Sequence[Sequence[int]], size: int, room: int, positions: int) -> Iterator[list[int]]:
    """Numbers of prompts of similar length, those of a batch.

    Args:
        size: the most prompts of a batch.
        room: how long a prompt may become.
        positions: what the longest prompt may have once the shortest one has become so long.
    """
    batch: list[int] = []
    for number in sorted(range(len(prompts)), key=lambda number: len(prompts[number])):
        shortest = len(prompts[batch[0]]) if batch else 0
        if batch and (len(batch) == size or len(prompts[number]) + room - shortest > positions):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
