"""Local attention in blocks is what a mask of the window gives, gradients included."""

import pytest
import torch

from uer.layers import view as module
from uer.layers.blocks import block_window, in_blocks, with_neighbours
from uer.layers.layout import padded_layout, unpadded_layout
from uer.layers.masks import Rule
from uer.layers.view import Heads, View

LENGTHS = torch.tensor([13, 7, 13, 1])
SEG = (torch.arange(13)[None] < LENGTHS[:, None]).long()
STARTS = torch.tensor([[0] * 5 + [5] * 8, [0] * 13, [0] * 2 + [2] * 2 + [4] * 9, [0] * 13])


def test_the_example():
    rows = torch.arange(1, 6)[None]
    assert with_neighbours(in_blocks(rows, 2), causal=False)[0].tolist() == [
        [0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 0], [3, 4, 5, 0, 0, 0]]
    assert with_neighbours(in_blocks(rows, 2), causal=True)[0].tolist() == [[0, 0, 1, 2], [1, 2, 3, 4], [3, 4, 5, 0]]
    window = block_window(5, 2, False, rows.device)
    assert window[:, 0].int().tolist() == [[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]]
    assert window[1, 1].int().tolist() == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("heads", [Heads(4, 4, 6, 0.5), Heads(4, 2, 6, 0.5)], ids=["", "grouped"])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("layout", [padded_layout, unpadded_layout])
@pytest.mark.parametrize("rule", [Rule(window=4), Rule(window=7), Rule(causal=True, window=5)], ids=str)
def test_equals_attention_with_a_mask(monkeypatch, rule, layout, documents, heads):
    torch.manual_seed(1)
    layout = layout(SEG, STARTS if documents else None)
    tokens = torch.randn(4, 13, (heads.heads + 2 * heads.kv_heads) * heads.size)
    weight, found = torch.randn(4, 13, heads.heads * heads.size) * SEG[:, :, None], []
    for least in (1, 1000):
        monkeypatch.setattr(module, "LEAST_BLOCKS", least)
        view, packed = View(rule, layout), layout.gather(tokens).requires_grad_()
        assert view._in_blocks(False) == (least == 1)
        output = layout.scatter(view.attend(None, packed, heads)[0]) * SEG[:, :, None]
        found.append((output, *torch.autograd.grad((output * weight).sum(), packed)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
