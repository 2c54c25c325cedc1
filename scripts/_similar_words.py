"""What the scripts that look for similar words share; not a command."""

from collections.abc import Iterator, Sequence

import torch
from _generation import read_lines
from torch import Tensor

from uer.convert.names import some
from uer.errors import UserError
from uer.tokenizers import Vocab


def target_lines(path: str) -> list[tuple[int, str]]:
    """The lines of --test_path that are not blank, with their numbers.

    Raises:
        UserError: the file cannot be read, or has no such line.
    """
    lines = [(number, line) for number, line in enumerate(read_lines(path), start=1) if line]
    if not lines:
        raise UserError(f"--test_path {path}: no word in the file")
    return lines


def refuse_lines(path: str, wrong: Sequence[tuple[int, str]], what: str) -> None:
    """
    Args:
        path: the file, for the message.
        wrong: number and text of each line that does not fit.
        what: what is wrong with them.

    Raises:
        UserError: there is such a line; it says how many, and where the first ones are.
    """
    if wrong:
        where = some([f"line {number}: {text!r}" for number, text in wrong])
        raise UserError(f"{path}: {what}: {len(wrong)} ({where})")


def entry_ids(path: str, words: Sequence[tuple[int, str]], vocab: Vocab) -> list[int]:
    """The id of each word, the words with their lines in the file `path`.

    Raises:
        UserError: the vocabulary lacks some of them.
    """
    refuse_lines(path, [line for line in words if line[1] not in vocab.ids], "words that the vocabulary lacks")
    return [vocab.ids[word] for _, word in words]


def nearest(similarities: Tensor, ids: Tensor, own: int, topn: int, vocab: Vocab) -> Iterator[str]:
    """Lines `entry<TAB>similarity` of the entries that are most similar to a word, the word itself left out.

    Args:
        similarities: (C,) of the entries with these `ids` (C,).
        own: the word's id.
        topn: the most lines.
    """
    others = ids != own
    values, positions = similarities[others].topk(min(topn, int(others.sum())))
    for value, number in zip(values.tolist(), ids[others][positions].tolist()):
        yield f"{vocab.tokens[number]}\t{value:.5f}"


def unit_vectors(vectors: Tensor) -> Tensor:
    """Vectors (..., E) in float32 of length 1; zeros stay zeros, so that their cosine with all others is 0."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
