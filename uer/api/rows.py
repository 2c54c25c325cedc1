"""Token ids -> padded batches of [CLS] tokens [SEP]."""

import numpy as np
import torch

from uer.finetuning.batches import Batch
from uer.tokenizers import Vocab


def make_batch(ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray, vocab: Vocab) -> Batch:
    """Rows [CLS] ids[start:start + length] [SEP], padded to the longest of them, which comes last."""
    places = np.arange(lengths[-1] + 2)
    stops = lengths[:, None] + 1
    inner = (places > 0) & (places < stops)
    src = np.where(places < stops, vocab.cls_id, np.where(places == stops, vocab.sep_id, vocab.pad_id))
    src[inner] = ids[(starts[:, None] + places - 1)[inner]]
    return Batch(torch.from_numpy(src), torch.from_numpy((places <= stops).astype(np.int64)))


def pooled_rows(ids: np.ndarray, offsets: np.ndarray, longest: int, batch_size: int, vocab: Vocab,
                compute, width: int) -> np.ndarray:
    """A vector for each text, computed in batches of texts of similar length.

    Args:
        ids, offsets: as `Tokenizer.encode_lines` gives them.
        longest: tokens of a row at most, [CLS] and [SEP] included; longer texts are cut.
        batch_size: rows of a batch.
        vocab: for the special tokens.
        compute: a Batch -> (B, width) on any device.
        width: of a vector.

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
