"""Print the words that are most similar to a word in its sentence, by the hidden states of the last layer.

--test_path has lines `word<TAB>sentence`. Each entry of --cand_vocab_path takes the position of the word in turn; the
cosine of its hidden state there with that of the word itself is what they are ranked by. Rows have no [CLS].
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from _checkpoint import CheckpointFlags, open_both
from _similar_words import entry_ids, nearest, refuse_lines, target_lines, unit_vectors
from torch import Tensor

from uer import cli
from uer.api.weights import fill, find_device
from uer.config import REQUIRED, ModelConfig, TokenizerConfig, flag
from uer.finetuning.heads import SentenceEncoder
from uer.tokenizers import Tokenizer
from uer.tokenizers.fetch import ensure_vocab
from uer.tokenizers.vocab import read_entries


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    test_path: str = flag(REQUIRED, "A file with lines of a word, a tab, and a sentence with this word.", path="read")
    cand_vocab_path: str | None = flag(None, "The words that are compared, one on each line (default: all entries of "
                                             "the model's vocabulary).", path="read")
    topn: int = flag(15, "Words shown for each line.")
    batch_size: int = flag(64, "Rows of a batch.")
    seq_length: int = flag(128, "Maximum length in tokens; longer sentences are cut.")

    def problems(self) -> list[str]:
        return [f"--{name} must be at least 1" for name in ("topn", "batch_size", "seq_length")
                if getattr(self, name) < 1]


def main() -> None:
    flags, source, tokenizer_config, model_config = cli.parse(__doc__, (Flags, CheckpointFlags, TokenizerConfig,
                                                                        ModelConfig))
    weights, config, tokenizer = open_both(source, tokenizer_config, model_config)
    flags = replace(flags, seq_length=min(flags.seq_length, config.max_seq_length))
    rows = target_rows(flags, tokenizer)
    device = find_device(source.device)
    candidates = torch.tensor(candidate_ids(flags.cand_vocab_path, tokenizer), device=device)  # (C,)
    model = fill(SentenceEncoder(config, len(tokenizer.vocab)), weights, source.path).to(device)
    for sentence, row, position in rows:
        found = similarities(model, row.to(device), position, candidates, flags.batch_size)
        print(f"Target word: {tokenizer.vocab.tokens[row[position]]}\nSentence: {sentence}")
        print("\n".join(nearest(found, candidates, int(row[position]), flags.topn, tokenizer.vocab)))


def target_rows(flags: Flags, tokenizer: Tokenizer) -> list[tuple[str, Tensor, int]]:
    """Of each line the sentence, its ids (S,), and the word's first position in them.

    Raises:
        UserError: lines have no tab, their words are no entries of the vocabulary, or they are not in the sentences.
    """
    path, lines = flags.test_path, target_lines(flags.test_path)
    refuse_lines(path, [line for line in lines if "\t" not in line[1]], "lines without a tab between word and sentence")
    parts = [(number, *line.split("\t", 1)) for number, line in lines]
    words = entry_ids(path, [(number, word.strip()) for number, word, _ in parts], tokenizer.vocab)
    rows = [tokenizer.encode(sentence)[:flags.seq_length] for _, _, sentence in parts]
    refuse_lines(path, [line for line, word, row in zip(lines, words, rows) if word not in row],
                 f"lines whose word is not among the first {flags.seq_length} tokens of the sentence")
    return [(sentence, torch.tensor(row), row.index(word)) for (_, _, sentence), word, row in zip(parts, words, rows)]


def candidate_ids(path: str | None, tokenizer: Tokenizer) -> Sequence[int]:
    """The ids of the entries of a candidate vocabulary, each once; of all entries where there is none.

    Raises:
        UserError: the model's vocabulary lacks some of them.
    """
    if path is None:
        return range(len(tokenizer.vocab))
    entries = enumerate(read_entries(Path(ensure_vocab(path))), start=1)
    return list(dict.fromkeys(entry_ids(path, [line for line in entries if line[1]], tokenizer.vocab)))


@torch.no_grad()
def similarities(model: SentenceEncoder, row: Tensor, position: int, candidates: Tensor, batch_size: int) -> Tensor:
    """The cosine (C,) of the hidden state at `position` with that of each candidate there.

    Args:
        row: (S,), the ids of a sentence.
        candidates: (C,), ids that take the position one by one; hidden states of `batch_size` of them are in memory.
    """
    def at_position(ids: Tensor) -> Tensor:  # (B,) -> (B, H)
        src = row.repeat(len(ids), 1)  # (B, S)
        src[:, position] = ids
        return model.encode_at(src, torch.ones_like(src), torch.full_like(src[:, :1], position))[:, 0]

    own = unit_vectors(at_position(row[position:position + 1]))[0]  # (H,)
    return torch.cat([unit_vectors(at_position(ids)) @ own for ids in candidates.split(batch_size)])


if __name__ == "__main__":
    cli.run(main)
