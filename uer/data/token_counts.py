"""How frequent each token of a vocabulary is in the training data."""

from collections.abc import Sequence

import numpy as np

from uer.data.store import TokenDataset
from uer.errors import UserError

MOST_TOKENS = 1 << 26
"""No more than so many tokens of a dataset are counted: a second or two."""
BLOCK = 1 << 20


def token_counts(datasets: Sequence[TokenDataset], side: str, vocab_size: int) -> np.ndarray:
    """(vocab_size,) int64: how often each token occurs. Of a large dataset, blocks at equal distances are counted.

    Args:
        side: the column, "src" or "tgt". The targets of t5 and bart are made from the src column while training; it is
            counted for them.
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    for dataset in datasets:
        tokens = dataset.columns[side if side in dataset.columns else "src"]
        step = BLOCK * max(1, -(-len(tokens) // MOST_TOKENS))
        for start in range(0, len(tokens), step):
            counts += occurrences(dataset, tokens[start:start + BLOCK], vocab_size)
    return counts


def occurrences(dataset: TokenDataset, tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """(vocab_size,) int64: how often each id is among some tokens of a dataset.

    Raises:
        UserError: one is not in the vocabulary.
    """
    counts = np.bincount(tokens, minlength=vocab_size)
    if len(counts) > vocab_size:
        raise UserError(f"{dataset.path}: the dataset is damaged: token id {len(counts) - 1} in a vocabulary of "
                        f"{vocab_size} entries; run preprocess.py again")
    return counts
