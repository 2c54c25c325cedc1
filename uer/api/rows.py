"""Makes padded batches of rows [CLS] tokens [SEP] from the token ids of many texts."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from uer.finetuning.batches import Batch
from uer.tokenizers import Vocab


def make_batch(ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray, vocab: Vocab) -> Batch:
    """Rows [CLS] ids[start:start + length] [SEP], padded to the longest of them, which must be the last.

    With ids [7 8 9 5], starts [3 0] and lengths [1 3]:

        [CLS] 5 [SEP] [PAD] [PAD]
        [CLS] 7   8     9   [SEP]

    Args:
        ids: (tokens of all texts,).
        starts, lengths: (B,), where each text begins in `ids`, and how many of its tokens are used.

    Returns:
        Batch: src and seg are (B, S) int64, S = lengths[-1] + 2.
    """
    positions = np.arange(lengths[-1] + 2)  # (S,)
    ends = lengths[:, None] + 1  # (B, 1), the position of [SEP]
    inner = (positions > 0) & (positions < ends)  # (B, S)
    src = np.where(positions < ends, vocab.cls_id, np.where(positions == ends, vocab.sep_id, vocab.pad_id))
    src[inner] = ids[(starts[:, None] + positions - 1)[inner]]
    return Batch(torch.from_numpy(src), torch.from_numpy((positions <= ends).astype(np.int64)))


def pooled_rows(ids: np.ndarray, offsets: np.ndarray, longest: int, batch_size: int, vocab: Vocab,
                compute: Callable[[Batch], Tensor], width: int) -> np.ndarray:
    """Compute a vector for each text, in batches of texts of similar length.

    Args:
        ids, offsets: what `Tokenizer.encode_lines` returns: (tokens,) and (texts + 1,).
        longest: maximum tokens in a row, [CLS] and [SEP] included; longer texts are cut.
        batch_size: rows in a batch.
        vocab: has the special tokens.
        compute: function from a Batch to vectors (B, width) on any device.
        width: length of a vector.

    Returns:
        (texts, width) float32.
    """
    lengths = np.minimum(np.diff(offsets), longest - 2)
    vectors = np.empty((len(lengths), width), np.float32)
    order = np.argsort(lengths, kind="stable")
    for first in range(0, len(order), batch_size):
        chosen = order[first:first + batch_size]
        vectors[chosen] = compute(make_batch(ids, offsets[chosen], lengths[chosen], vocab)).float().cpu().numpy()
    return vectors
