"""Add entries to a vocabulary and rows to a checkpoint together, or suggest which to add.

    python3 scripts/extend_vocab.py --vocab_path models/google_zh_vocab.txt --corpus_path corpora/book.txt --suggest 50
    python3 scripts/extend_vocab.py --vocab_path models/google_zh_vocab.txt --add_tokens “ ” … \\
        --output_vocab_path models/extended_vocab.txt \\
        --pretrained_model_path models/model.bin --output_model_path models/extended_model.bin

New entries follow the old ones, so that every old id stays. A new row is the mean of the rows of the pieces that the
entry was tokenized into before; an entry without any known piece gets the mean of all rows.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _corpus_text import read_texts

from uer import cli
from uer.config import REQUIRED, TokenizerConfig, flag
from uer.errors import UserError
from uer.files import atomic_path
from uer.paths import File, files_behind
from uer.tokenizers import Tokenizer, Vocab, build_tokenizer
from uer.tokenizers.vocab import ENTRY_END, read_entries

if TYPE_CHECKING:
    from torch import Tensor

# The names of parameters with one row for each entry of the vocabulary.
VOCAB_ROWS = re.compile(r"(tgt_)?embedding\.(dual\.embedding_[01]\.)?word\.embedding\.weight"
                        r"|target\.(mlm\.linear_2|lm\.output_layer|bilm\.output_layer)\.(weight|bias)")


@dataclass(frozen=True)
class ExtendVocabConfig:
    """The entries to add, and the output files."""

    vocab_path: str = flag(REQUIRED, "The vocabulary to extend.", path="read")
    tokenizer: str = flag("bert", "How text becomes tokens.", choices=("bert", "char", "space"))
    do_lower_case: bool = flag(True, "Lower-case the text and strip accents.")
    add_path: str | None = flag(None, "File of entries to add, one on each line.", path="read")
    add_tokens: tuple[str, ...] = flag((), "Entries to add.")
    output_vocab_path: str | None = flag(None, "Where the extended vocabulary is written.", path="write")
    pretrained_model_path: str | None = flag(None, "Checkpoint that gets new rows.", path="read")
    output_model_path: str | None = flag(None, "Where the extended checkpoint is written.", path="write")
    corpus_path: tuple[str, ...] = flag((), "Text for --suggest: files, globs or folders.", path="read")
    suggest: int = flag(0, "Print this many of the corpus' most frequent unknown characters and words; add nothing.")

    def problems(self) -> list[str]:
        found = []
        adds = bool(self.add_path or self.add_tokens)
        if self.suggest < 0:
            found.append("--suggest must not be negative")
        if adds == bool(self.suggest):
            found.append("give either --suggest, or --add_path or --add_tokens")
        if bool(self.suggest) != bool(self.corpus_path):
            found.append("--suggest and --corpus_path go together")
        if adds != bool(self.output_vocab_path):
            found.append("--output_vocab_path goes with --add_path and --add_tokens")
        if bool(self.pretrained_model_path) != bool(self.output_model_path):
            found.append("--pretrained_model_path and --output_model_path go together")
        return found

    def reads(self) -> list[File]:
        """The corpus's files."""
        return [File("--corpus_path", path) for path in files_behind(self.corpus_path)]


def main() -> None:
    (config,) = cli.parse(__doc__, (ExtendVocabConfig,))
    tokenizer = build_tokenizer(TokenizerConfig(config.tokenizer, config.vocab_path,
                                                do_lower_case=config.do_lower_case))
    vocab = tokenizer.vocab
    if config.suggest:
        print_suggestions(tokenizer, config.corpus_path, config.suggest)
        return
    wanted = (read_entries(Path(config.add_path)) if config.add_path else []) + list(config.add_tokens)
    added = [entry for entry in dict.fromkeys(wanted) if entry not in vocab.ids]
    if not added:
        raise UserError(f"{config.vocab_path}: holds all of these {len(wanted)} entries already")
    extended = Vocab(vocab.tokens + added, vocab.special_tokens, f"{config.vocab_path} and what is added",
                     tokenizer.default_special_tokens)
    warn_of_unreachable(tokenizer.from_saved(extended, tokenizer.saved_settings()), added)
    if config.pretrained_model_path and config.output_model_path:
        extend_checkpoint(config.pretrained_model_path, config.output_model_path, tokenizer, added)
    with atomic_path(config.output_vocab_path) as path:
        path.write_text("".join(f"{entry}\n" for entry in extended.tokens), encoding="utf-8", newline="\n")
    print(f"{config.output_vocab_path}: {len(extended):,} entries, {len(added):,} of them new")


def print_suggestions(tokenizer: Tokenizer, paths: tuple[str, ...], limit: int) -> None:
    """Print the most frequent unknown pieces as lines `entry<TAB>count` for `--add_path`, and totals on stderr."""
    unknown: Counter[str] = Counter()
    tokens = missing = 0
    unk = tokenizer.vocab.special_ids.get("unk", -1)
    for text in read_texts(paths):
        ids, _ = tokenizer.encode_lines(text, unknown)
        tokens += len(ids)
        missing += int((ids == unk).sum())
    pieces = [item for item in unknown.items() if not ENTRY_END.search(item[0])]  # a space is no entry
    for piece, count in sorted(pieces, key=lambda item: (-item[1], item[0]))[:limit]:
        print(f"{piece}\t{count}")
    print(f"{missing:,} of {tokens:,} tokens are unknown ({missing / max(tokens, 1):.3%})", file=sys.stderr)


def warn_of_unreachable(tokenizer: Tokenizer, added: list[str]) -> None:
    """Warn of new entries that the tokenizer never produces, such as `"北京"` with BERT, which splits ideographs."""
    unreachable = [entry for entry in added
                   if not tokenizer.continues(entry) and tokenizer.tokenize(entry) != [entry]]
    if unreachable:
        print(f"warning: the {tokenizer.kind} tokenizer never gives {len(unreachable)} of the new entries: "
              f"{' '.join(unreachable[:10])}", file=sys.stderr)


def extend_checkpoint(source: str, target: str, tokenizer: Tokenizer, added: list[str]) -> None:
    """Write the checkpoint `source` with a row for each new entry to `target`.

    Raises:
        UserError: the checkpoint cannot be read, or does not fit the vocabulary.
    """
    from uer.checkpoint.files import save_weights  # imported here: suggestions need no torch
    from uer.convert.open import load_checkpoint

    state = load_checkpoint(source)
    names = vocab_rows(state, source)
    pieces = [known_pieces(tokenizer, entry) for entry in added]
    extended: dict[int, Tensor] = {}  # data pointer -> new tensor, so that tied parameters stay tied
    for name in names:
        rows = state[name]
        if len(rows) != len(tokenizer.vocab):
            raise UserError(f"{source}: {name} has {len(rows)} rows, the vocabulary {len(tokenizer.vocab)} entries")
        memory = rows.data_ptr()
        if memory not in extended:
            extended[memory] = with_new_rows(rows, pieces)
        state[name] = extended[memory]
    save_weights(state, target)
    print(f"{target}: {len(added):,} new rows in {', '.join(names)}; "
          f"{sum(not ids for ids in pieces):,} of them without a known piece")


def vocab_rows(state: Iterable[str], path: str) -> list[str]:
    """The names of a checkpoint's parameters with one row for each entry of the vocabulary.

    Raises:
        UserError: there is none.
    """
    names = [name for name in state if VOCAB_ROWS.fullmatch(name)]
    if not names:
        raise UserError(f"{path}: no parameter with a row for each entry, such as embedding.word.embedding.weight")
    return names


def known_pieces(tokenizer: Tokenizer, entry: str) -> list[int]:
    """Ids that `entry` is tokenized into with the old vocabulary, without [UNK]."""
    unk = tokenizer.vocab.special_ids.get("unk")
    return [index for index in tokenizer.encode(tokenizer.surface(entry)) if index != unk]


def with_new_rows(rows: "Tensor", pieces: list[list[int]]) -> "Tensor":
    """Append to `rows` (V, ...) the mean of `rows[ids]` for each `ids` in `pieces`: (V + len(pieces), ...)."""
    import torch

    exact = rows.double()
    everything = exact.mean(0)
    new = torch.stack([exact[ids].mean(0) if ids else everything for ids in pieces])
    return torch.cat([rows, new.to(rows.dtype)])


if __name__ == "__main__":
    cli.run(main)
