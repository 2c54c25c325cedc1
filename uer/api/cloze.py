"""Cloze test: sentences with masked tokens, and the entries of the vocabulary that a model predicts there."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from uer.model import Model
from uer.tokenizers import Tokenizer


class Cloze(NamedTuple):
    """Holds a row of token ids, the positions of its masks, and the token id that was masked (None if unknown)."""

    ids: list[int]
    positions: list[int]
    answer: int | None


class Guess(NamedTuple):
    """Holds the token ids with the highest probabilities at one mask, best first, and these probabilities."""

    ids: list[int]
    probabilities: list[float]


def make_cloze(text: str, tokenizer: Tokenizer, length: int, draw: torch.Generator) -> Cloze | None:
    """Make the row [CLS] sentence [SEP] of a sentence; if it has no [MASK], one of its tokens is masked at random.

    Args:
        text: the sentence.
        length: maximum tokens in the row; a longer sentence is cut to the tokens around its first mask.
        draw: random generator that chooses the token.

    Returns:
        None for a sentence without known tokens.
    """
    vocab = tokenizer.vocab
    pieces = [tokenizer.encode(piece) for piece in text.split(vocab.special_token("mask"))]
    ids = pieces[0] + [token for piece in pieces[1:] for token in (vocab.mask_id, *piece)]
    answer = None
    if len(pieces) == 1:
        known = [position for position, token in enumerate(ids) if token != vocab.special_ids.get("unk")]
        if not known:
            return None
        chosen = known[int(torch.randint(len(known), (), generator=draw))]
        answer, ids[chosen] = ids[chosen], vocab.mask_id
    room = length - 2
    start = max(0, min(ids.index(vocab.mask_id) - room // 2, len(ids) - room))
    row = [vocab.cls_id, *ids[start:start + room], vocab.sep_id]
    return Cloze(row, [position for position, token in enumerate(row) if token == vocab.mask_id], answer)


@torch.no_grad()
def guess(model: Model, clozes: Sequence[Cloze], topk: int) -> list[list[Guess]]:
    """For each row and each of its masks, the `topk` token ids with the highest probability.

    Args:
        model: a model with an mlm target.
        clozes: B rows; they are padded to the longest.
    """
    if not clozes:
        return []
    device = next(model.parameters()).device
    length = max(len(cloze.ids) for cloze in clozes)
    src = torch.tensor([cloze.ids + [0] * (length - len(cloze.ids)) for cloze in clozes], device=device)
    real = torch.tensor([[1] * len(cloze.ids) + [0] * (length - len(cloze.ids)) for cloze in clozes], device=device)
    rows = [row for row, cloze in enumerate(clozes) for _ in cloze.positions]
    positions = [position for cloze in clozes for position in cloze.positions]
    # (B, S, H) at the K masks of all rows: (K, H) -> logits (K, V)
    logits = model.target["mlm"].logits(model.encode(src, real)[rows, positions])
    best = logits.float().softmax(-1).topk(topk)
    guesses = iter(zip(best.indices.tolist(), best.values.tolist()))
    return [[Guess(*next(guesses)) for _ in cloze.positions] for cloze in clozes]
