"""Every change is a pair of inverse functions; sizes are unlike, so that a swapped axis fails."""

import pytest
import torch
from torch import Tensor

from uer.convert.changes import DOES_NOT_FIT, SAME, TRANSPOSED, AddRows, Chain, Change, DropRows, Fused, LeadingAxis

# change, shape of UER's tensors, how many they are, shape of Hugging Face's
CASES = [
    (SAME, (5, 7), 1, (5, 7)),
    (TRANSPOSED, (5, 7), 1, (7, 5)),
    (DropRows(2), (5, 7), 1, (3, 7)),
    (DropRows(2, last=True), (5, 7), 1, (3, 7)),
    (AddRows(2), (5, 7), 1, (7, 7)),
    (Fused(3), (5, 7), 3, (15, 7)),
    (Fused(2), (5,), 2, (10,)),
    (LeadingAxis(), (5,), 1, (1, 5)),
    (Chain((Fused(3), TRANSPOSED)), (5, 7), 3, (7, 15)),
    (Chain((AddRows(2), DropRows(3, last=True), TRANSPOSED)), (5, 7), 1, (7, 4)),
    (Chain(()), (2, 3, 4), 1, (2, 3, 4)),
]
# Changes after which some rows of UER are gone.
LOSING = (DropRows(2), DropRows(2, last=True), Chain((AddRows(2), DropRows(3, last=True), TRANSPOSED)))


def random_tensors(count: int, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(count)
    return tuple(torch.randn(shape, generator=generator) for _ in range(count))


@pytest.mark.parametrize(("change", "shape", "count", "expected"), CASES, ids=lambda value: str(value))
def test_there_and_back(change: Change, shape: tuple[int, ...], count: int, expected: tuple[int, ...]) -> None:
    ours = random_tensors(count, shape)
    (theirs,) = change.to_hugging_face(ours)
    back = change.to_uer((theirs,))
    assert theirs.shape == expected and [tensor.shape for tensor in back] == [shape] * count
    if change not in LOSING:
        assert all(torch.equal(first, second) for first, second in zip(ours, back, strict=True))
    assert torch.equal(change.to_hugging_face(back)[0], theirs)


def test_rows_by_hand() -> None:
    rows = torch.tensor([[1.0], [2.0], [3.0]])

    def numbers(change: Change, way: str) -> list[float]:
        return getattr(change, way)((rows,))[0].flatten().tolist()

    assert numbers(DropRows(1), "to_hugging_face") == [2, 3] and numbers(DropRows(1), "to_uer") == [0, 1, 2, 3]
    assert numbers(DropRows(1, last=True), "to_hugging_face") == [1, 2]
    assert numbers(AddRows(2), "to_hugging_face") == [0, 0, 1, 2, 3] and numbers(AddRows(2), "to_uer") == [3]
    assert numbers(Chain((AddRows(2), DropRows(2, last=True))), "to_hugging_face") == [0, 0, 1]
    assert numbers(Chain((AddRows(2), DropRows(2, last=True))), "to_uer") == [3, 0, 0]


def test_transposed_linear_layers_are_stacked_as_gpt2_multiplies() -> None:
    """Hugging Face's Conv1D computes x @ W + b for query, key and value at once."""
    weights, biases, hidden = random_tensors(3, (5, 5)), random_tensors(3, (5,)), torch.randn(4, 5)
    (weight,) = Chain((Fused(3), TRANSPOSED)).to_hugging_face(weights)
    (bias,) = Fused(3).to_hugging_face(biases)
    parts = (hidden @ weight + bias).split(5, dim=1)
    for part, matrix, shift in zip(parts, weights, biases, strict=True):
        assert torch.allclose(part, torch.nn.functional.linear(hidden, matrix, shift), atol=1e-6)


@pytest.mark.parametrize(("change", "shape"), [
    (Fused(3), (7, 5)), (Fused(3), ()), (DropRows(1), ()), (AddRows(1), ()),
    (TRANSPOSED, (2, 3, 4)), (Chain((Fused(3), TRANSPOSED)), (3, 7)), (LeadingAxis(), ())])
def test_what_does_not_fit_raises(change: Change, shape: tuple[int, ...]) -> None:
    with pytest.raises(DOES_NOT_FIT):
        change.to_uer((torch.zeros(shape),))
