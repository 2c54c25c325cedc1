import pytest
import torch

from uer.layers.attention import SelfAttention
from uer.layers.layout import padded_layout, unpadded_layout

SEG = (torch.arange(9)[None] < torch.tensor([9, 4, 4, 1, 7])[:, None]).long()


def _both_ways(attention, hidden, layout, monkeypatch, **others):
    tiled = attention(hidden, layout, **others)[0]
    with monkeypatch.context() as patch:
        patch.setattr(SelfAttention, "_runs_tiled", lambda *_: False)
        fused = attention(hidden, layout, **others)[0]
    return tiled, fused


@pytest.mark.parametrize("make", [padded_layout, unpadded_layout])
@pytest.mark.parametrize("scale", [True, False])
def test_the_tiled_and_torchs_fused_attention_agree(make, scale, monkeypatch):
    torch.manual_seed(1)
    attention, layout = SelfAttention(21, 3, scale=scale), make(SEG)
    tokens = sum(rows * length for _, rows, length in layout.groups)
    hidden = torch.randn(tokens, 21) * 30
    if make is padded_layout:
        layout.masks[0] = ((SEG == 0) * -10000.0)[:, None, None, :]
    tiled, fused = _both_ways(attention, hidden, layout, monkeypatch)
    torch.testing.assert_close(tiled, fused)
    wanted = layout.queries(torch.tensor([[8, 2], [3, 0], [0, 1], [0, 0], [5, 6]]), torch.ones(5, 2, dtype=torch.bool))
    some = _both_ways(attention, hidden, layout, monkeypatch, queries=wanted)
    for answers in some:
        torch.testing.assert_close(answers, tiled[wanted.index])


def test_a_scaled_head_is_divided_by_the_root_of_its_size():
    torch.manual_seed(1)
    hidden, layout = torch.randn(9, 20), padded_layout(SEG[:1])
    scaled, plain = SelfAttention(20, 5), SelfAttention(20, 5, scale=False)
    plain.load_state_dict(scaled.state_dict())
    plain.linear_layers[0].weight.data /= 2  # sqrt(20 / 5)
    torch.testing.assert_close(scaled(hidden, layout)[0], plain(hidden, layout)[0])


def test_a_position_bias_is_added_before_the_scale():
    torch.manual_seed(1)
    hidden, layout = torch.randn(9, 20), padded_layout(SEG[:1])
    attention = SelfAttention(20, 5)
    favourite = torch.zeros(1, 5, 9, 9)
    favourite[..., 4] = 1000.0
    output, _ = attention(hidden, layout, favourite)
    value = attention.linear_layers[2](hidden[4])
    torch.testing.assert_close(output, attention.final_linear(value).expand(9, -1))


def test_residual_attention_adds_the_scores_of_the_layer_before():
    torch.manual_seed(1)
    hidden, layout = torch.randn(9, 20), padded_layout(SEG[:1])
    attention = SelfAttention(20, 5, residual=True)
    plain = SelfAttention(20, 5)
    plain.load_state_dict(attention.state_dict())
    first, scores = attention(hidden, layout)
    torch.testing.assert_close(first, plain(hidden, layout)[0])
    second, summed = attention(hidden, layout, scores=scores)
    doubled = SelfAttention(20, 5)
    doubled.load_state_dict(attention.state_dict())
    doubled.linear_layers[0].weight.data *= 2
    torch.testing.assert_close(second, doubled(hidden, layout)[0])
    torch.testing.assert_close(summed[0], 2 * scores[0])


def test_dropout_only_while_training():
    torch.manual_seed(1)
    hidden, layout = torch.randn(9, 20), padded_layout(SEG[:1])
    attention = SelfAttention(20, 5, dropout=0.5)
    assert not torch.equal(attention(hidden, layout)[0], attention(hidden, layout)[0])
    attention.eval()
    assert torch.equal(attention(hidden, layout)[0], attention(hidden, layout)[0])
