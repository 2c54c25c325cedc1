"""Write a checkpoint's word vectors: as text in word2vec's format, or as .npy.

The rows of a .npy file are in the vocabulary's order.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from _checkpoint import DEFAULT_VOCAB, CheckpointFlags, open_tokenizer

from uer import cli
from uer.config import REQUIRED, TokenizerConfig, flag
from uer.convert.names import WORD_EMBEDDING
from uer.convert.open import load_uer_weights, vocab_size
from uer.files import atomic_path
from uer.paths import File

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    load_model_path: str = flag(REQUIRED, "UER checkpoint, or a Hugging Face folder.", path="read")
    vocab_path: str | None = flag(None, f"Vocabulary of the model (default: its own, else {DEFAULT_VOCAB}).",
                                  path="read")
    word_embedding_path: str = flag(REQUIRED, "Where the vectors are written; as an array if the name ends in .npy.",
                                    path="write")

    def reads(self) -> list[File]:
        """The files beside the model."""
        return CheckpointFlags(load_model_path=self.load_model_path).reads()


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    source = CheckpointFlags(load_model_path=flags.load_model_path)
    weights = load_uer_weights(source.path)
    size = vocab_size(weights, source.path)
    tokens = open_tokenizer(source, TokenizerConfig(vocab_path=flags.vocab_path), size).vocab.tokens
    vectors = weights[WORD_EMBEDDING].float().numpy()
    with atomic_path(flags.word_embedding_path) as temporary:
        if flags.word_embedding_path.endswith(".npy"):
            with open(temporary, "wb") as file:
                np.save(file, vectors)
        else:
            write_text(temporary, tokens, vectors)
    print(f"written: {flags.word_embedding_path}: {len(vectors)} vectors of width {vectors.shape[1]}")


def write_text(path: Path, tokens: Sequence[str], vectors: np.ndarray) -> None:
    """word2vec's format: a line "entries width", then lines "entry x1 x2 ..." with all digits of float32."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(f"{vectors.shape[0]} {vectors.shape[1]}\n")
        for start in range(0, len(tokens), ROWS_AT_ONCE):
            block = vectors[start:start + ROWS_AT_ONCE]
            file.writelines(f"{token} {' '.join(row)}\n"
                            for token, row in zip(tokens[start:], block.astype(str).tolist()))


if __name__ == "__main__":
    cli.run(main)
