import pytest
import torch

from uer.encoders.masks import add_masks
from uer.layers.layout import padded_layout, unpadded_layout

SEG = torch.tensor([[1, 1, 2, 2, 0]])

VISIBLE = {  # VISIBLE[rule][query] = the keys that a real query sees
    "fully_visible": ["11110", "11110", "11110", "11110"],
    "causal": ["10000", "11000", "11100", "11110"],
    "causal_with_prefix": ["11000", "11000", "11100", "11110"],
}


def _seen(mask, length):
    return ["".join("1" if value == 0 else "0" for value in row) for row in mask.expand(1, 1, length, length)[0, 0]]


@pytest.mark.parametrize("rule", VISIBLE)
def test_what_a_real_query_sees(rule):
    layout = padded_layout(SEG)
    add_masks(layout, rule, torch.float32)
    assert _seen(layout.masks[0], 5)[:4] == VISIBLE[rule]


@pytest.mark.parametrize("rule", VISIBLE)
def test_without_padding_it_sees_the_same(rule):
    layout = unpadded_layout(SEG)
    add_masks(layout, rule, torch.float32)
    if rule == "fully_visible":
        assert not layout.masks
    else:
        assert _seen(layout.masks[0], 4) == [row[:4] for row in VISIBLE[rule]]


def test_each_row_has_its_own_prefix():
    seg = torch.tensor([[1, 2, 2], [1, 1, 2]])
    layout = padded_layout(seg)
    add_masks(layout, "causal_with_prefix", torch.float32)
    first, second = layout.masks[0][:, 0]
    assert _seen(first[None, None], 3) == ["100", "110", "111"]
    assert _seen(second[None, None], 3) == ["110", "110", "111"]
