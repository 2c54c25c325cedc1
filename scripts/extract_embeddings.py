"""Write a checkpoint's word vectors: as text in word2vec's format, or as .npy.

The rows of a .npy file are in the vocabulary's order.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from _checkpoint import DEFAULT_VOCAB

from uer import cli
from uer.config import REQUIRED, flag
from uer.convert.names import WORD_EMBEDDING
from uer.convert.open import folder_of, is_hugging_face, load_uer_weights
from uer.convert.tokenizer_files import read_tokens
from uer.errors import UserError
from uer.files import atomic_path
from uer.tokenizers import Vocab
from uer.tokenizers.fetch import ensure_vocab

ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    load_model_path: str = flag(REQUIRED, "UER checkpoint, or a Hugging Face folder.", path="read")
    vocab_path: str | None = flag(None, f"Vocabulary of the model (default: its folder's, else {DEFAULT_VOCAB}).",
                                  path="read")
    word_embedding_path: str = flag(REQUIRED, "Where the vectors are written; as an array if the name ends in .npy.",
                                    path="write")


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    weights, name = load_uer_weights(flags.load_model_path), WORD_EMBEDDING
    if name not in weights or weights[name].dim() != 2:
        raise UserError(f"{flags.load_model_path}: has no matrix {name}; its names are not UER's")
    vectors = weights[name].float().numpy()
    tokens, source = _tokens(flags, len(vectors))
    if len(tokens) != len(vectors):
        raise UserError(f"{source} has {len(tokens)} entries, but {flags.load_model_path} has {len(vectors)}")
    with atomic_path(flags.word_embedding_path) as temporary:
        if flags.word_embedding_path.endswith(".npy"):
            with open(temporary, "wb") as file:
                np.save(file, vectors)
        else:
            write_text(temporary, tokens, vectors)
    print(f"written: {flags.word_embedding_path}: {len(vectors)} vectors of width {vectors.shape[1]}")


def _tokens(flags: Flags, size: int) -> tuple[list[str], str]:
    """The entries of the vocabulary, and its name for messages."""
    if not flags.vocab_path and is_hugging_face(flags.load_model_path):
        folder = folder_of(flags.load_model_path)
        return read_tokens(folder, size), f"the vocabulary of {folder}"
    path = flags.vocab_path or DEFAULT_VOCAB
    return Vocab.load(ensure_vocab(path)).tokens, f"--vocab_path {path}"


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
