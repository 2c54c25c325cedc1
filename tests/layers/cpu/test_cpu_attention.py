import pytest
import torch

from uer.layers.cpu import attention as module
from uer.layers.cpu.attention import cpu_attention
from uer.layers.layout import Group

HEADS, SIZE = 3, 7  # head size 7: H = 21
SCALE = 0.3


def _packed(groups, parts=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(rows * length for _, rows, length in groups)
    shape = (tokens, parts * HEADS * SIZE)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


def _plain(query, packed, groups, query_groups, masks):
    """The textbook formula, row by row."""
    if query is None:
        query, packed = packed[:, :HEADS * SIZE], packed[:, HEADS * SIZE:]
    output = []
    for number, ((start, rows, length), (query_start, _, count)) in enumerate(zip(groups, query_groups)):
        for row in range(rows):
            here = packed[start + row * length:start + (row + 1) * length].view(length, 2, HEADS, SIZE)
            queries = query[query_start + row * count:query_start + (row + 1) * count].view(count, HEADS, SIZE)
            scores = torch.einsum("qhd,khd->hqk", queries, here[:, 0]) * SCALE
            if number in masks:
                mask = masks[number]
                scores = scores + mask[row if len(mask) > 1 else 0]
            output.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), here[:, 1]).reshape(count, -1))
    return torch.cat(output)


@pytest.mark.parametrize("tile", [1, 40, 131072])
@pytest.mark.parametrize("groups", [[Group(0, 5, 13)], [Group(0, 2, 13), Group(26, 4, 5), Group(46, 1, 1)]])
def test_equals_the_plain_formula_with_its_gradients(groups, tile, monkeypatch):
    monkeypatch.setattr(module, "TILE_ELEMENTS", tile)
    packed = _packed(groups)
    masks = {0: torch.randn(groups[0].rows, 1, 13, 13, dtype=torch.float64)}
    grad = torch.randn(len(packed), HEADS * SIZE, dtype=torch.float64)
    output = cpu_attention(None, packed, groups, groups, masks, HEADS, SCALE, 0.0)
    expected = _plain(None, packed, groups, groups, masks)
    torch.testing.assert_close(output, expected)
    (ours,) = torch.autograd.grad(output, packed, grad)
    (theirs,) = torch.autograd.grad(expected, packed, grad)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("tile", [1, 40, 131072])
def test_fewer_queries_than_keys(tile, monkeypatch):
    monkeypatch.setattr(module, "TILE_ELEMENTS", tile)
    groups, wanted = [Group(0, 4, 13), Group(52, 2, 6)], [Group(0, 4, 2), Group(8, 2, 3)]
    packed = _packed(groups, parts=2)
    query = torch.randn(14, HEADS * SIZE, dtype=torch.float64, requires_grad=True)
    masks = {1: torch.tensor([0.0, 0, 0, 0, -1e4, -1e4], dtype=torch.float64).view(1, 1, 1, 6)}
    grad = torch.randn(14, HEADS * SIZE, dtype=torch.float64)
    output = cpu_attention(query, packed, groups, wanted, masks, HEADS, SCALE, 0.0)
    expected = _plain(query, packed, groups, wanted, masks)
    torch.testing.assert_close(output, expected)
    for ours, theirs in zip(torch.autograd.grad(output, (query, packed), grad),
                            torch.autograd.grad(expected, (query, packed), grad)):
        torch.testing.assert_close(ours, theirs)


def test_a_group_without_queries_gets_gradient_zero():
    groups, wanted = [Group(0, 2, 5), Group(10, 1, 4)], [Group(0, 2, 1), Group(2, 1, 0)]
    packed = _packed(groups, parts=2)
    query = torch.randn(2, HEADS * SIZE, dtype=torch.float64, requires_grad=True)
    cpu_attention(query, packed, groups, wanted, {}, HEADS, SCALE, 0.1).sum().backward()
    assert torch.equal(packed.grad[10:], torch.zeros(4, 2 * HEADS * SIZE, dtype=torch.float64))
    assert packed.grad[:10].abs().sum() > 0


def test_gradients_with_dropout_are_those_of_the_same_masks():
    groups = [Group(0, 2, 5), Group(10, 3, 2)]
    packed = _packed(groups)

    def attend(packed):
        torch.manual_seed(11)
        return cpu_attention(None, packed, groups, groups, {}, HEADS, SCALE, 0.3)

    assert torch.autograd.gradcheck(attend, (packed,), fast_mode=True)


def test_dropout_changes_nothing_in_expectation():
    groups = [Group(0, 2, 9)]
    packed = _packed(groups).detach()
    torch.manual_seed(2)
    drawn = torch.stack([cpu_attention(None, packed, groups, groups, {}, HEADS, SCALE, 0.2) for _ in range(1000)])
    exact = cpu_attention(None, packed, groups, groups, {}, HEADS, SCALE, 0.0)
    error = (drawn.mean(0) - exact) / (drawn.std(0) / 1000**0.5)
    assert error.abs().max() < 5
    assert abs(error.std().item() - 1) < 0.2


def test_every_weight_is_dropped_by_itself():
    """With values 1 and even weights, an output is the fraction of a row's keys that was kept."""
    groups = [Group(0, 40, 50)]
    packed = torch.zeros(2000, 3 * HEADS * SIZE)
    packed[:, 2 * HEADS * SIZE:] = 1
    torch.manual_seed(2)
    output = cpu_attention(None, packed, groups, groups, {}, HEADS, SCALE, 0.1).view(2000, HEADS, SIZE)
    assert torch.allclose(output.std(-1), torch.zeros(()), atol=1e-6)
    kept = output[:, :, 0].double()
    assert abs(kept.mean().item() - 1) < 0.005
    assert abs(kept.var().item() - 0.1 / 0.9 / 50) < 0.0002  # binomial: p (1 - p) / (1 - p)^2 / 50
