"""Print the words that are most similar to each word of a file: the cosine of their rows in the word embedding.

--test_path has one word on each line, an entry of the vocabulary. Nothing but the word embedding is read, so the model
may be of any kind, and its settings (--config_path) do not matter.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from _checkpoint import CheckpointFlags, open_tokenizer
from _similar_words import entry_ids, nearest, target_lines, unit_vectors

from uer import cli
from uer.api.weights import find_device
from uer.config import REQUIRED, TokenizerConfig, flag
from uer.convert.names import WORD_EMBEDDING
from uer.convert.open import load_uer_weights, vocab_size

WORDS_AT_ONCE = 64  # whose similarities with all V entries are in memory together


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    test_path: str = flag(REQUIRED, "A file with one word on each line.", path="read")
    topn: int = flag(15, "Words shown for each word.")

    def problems(self) -> list[str]:
        return [] if self.topn >= 1 else ["--topn must be at least 1"]


def main() -> None:
    flags, source, tokenizer_config = cli.parse(__doc__, (Flags, CheckpointFlags, TokenizerConfig))
    weights = load_uer_weights(source.path)
    vocab = open_tokenizer(source, tokenizer_config, vocab_size(weights, source.path)).vocab
    words = entry_ids(flags.test_path, target_lines(flags.test_path), vocab)
    units = unit_vectors(weights[WORD_EMBEDDING].to(find_device(source.device)))  # (V, E)
    ids = torch.arange(len(units), device=units.device)
    for start in range(0, len(words), WORDS_AT_ONCE):
        chosen = words[start:start + WORDS_AT_ONCE]
        for word, similarities in zip(chosen, units[chosen] @ units.T):  # (B, V)
            print(f"Target word: {vocab.tokens[word]}")
            print("\n".join(nearest(similarities, ids, word, flags.topn, vocab)))


if __name__ == "__main__":
    cli.run(main)
