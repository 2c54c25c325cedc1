"""Sentences with masked words, and what a model takes to be the likeliest there."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from uer.model import Model
from uer.tokenizers import Tokenizer


class Cloze(NamedTuple):
    """A row of token ids, the places of its masks, and what stood there (None where nobody knows)."""

    ids: list[int]
    places: list[int]
    answer: int | None


class Guess(NamedTuple):
    """The likeliest entries of one mask and their probabilities, best first."""

    ids: list[int]
    probabilities: list[float]


def make_cloze(text: str, tokenizer: Tokenizer, length: int, draw: torch.Generator) -> Cloze | None:
    """[CLS] sentence [SEP] with its masks, at most `length` tokens around the first one; None for an empty sentence."""
    vocab = tokenizer.vocab
    pieces = [tokenizer.encode(piece) for piece in text.split(vocab.special_tokens["mask_token"])]
    ids = pieces[0] + [token for piece in pieces[1:] for token in (vocab.mask_id, *piece)]
    answer = None
    if len(pieces) == 1:
        known = [place for place, token in enumerate(ids) if token != vocab.unk_id]
        if not known:
            return None
        place = known[int(torch.randint(len(known), (), generator=draw))]
        answer, ids[place] = ids[place], vocab.mask_id
    room = length - 2
    start = max(0, min(ids.index(vocab.mask_id) - room // 2, len(ids) - room))
    row = [vocab.cls_id, *ids[start:start + room], vocab.sep_id]
    return Cloze(row, [place for place, token in enumerate(row) if token == vocab.mask_id], answer)


@torch.no_grad()
def guess(model: Model, clozes: Sequence[Cloze], topk: int) -> list[list[Guess]]:
    """For each row and each of its masks, the likeliest entries."""
    if not clozes:
        return []
    device = next(model.parameters()).device
    length = max(len(cloze.ids) for cloze in clozes)
    src = torch.tensor([cloze.ids + [0] * (length - len(cloze.ids)) for cloze in clozes], device=device)
    real = torch.tensor([[1] * len(cloze.ids) + [0] * (length - len(cloze.ids)) for cloze in clozes], device=device)
    rows = [row for row, cloze in enumerate(clozes) for _ in cloze.places]
    places = [place for cloze in clozes for place in cloze.places]
    logits = model.target["mlm"].logits(model.encode(src, real)[rows, places])
    best = logits.float().softmax(-1).topk(topk)
    guesses = iter(zip(best.indices.tolist(), best.values.tolist()))
    return [[Guess(*next(guesses)) for _ in cloze.places] for cloze in clozes]
