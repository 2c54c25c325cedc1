import torch
from torch import nn

from uer.layers.norm import LayerNorm, T5LayerNorm


def _randomise(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter)


def test_layer_norm_is_the_standard_one_under_other_names():
    torch.manual_seed(1)
    ours, theirs = LayerNorm(37), nn.LayerNorm(37, eps=1e-12)
    _randomise(ours)
    theirs.load_state_dict({"weight": ours.gamma, "bias": ours.beta})
    hidden = torch.randn(5, 7, 37)
    torch.testing.assert_close(ours(hidden), theirs(hidden))
    assert [name for name, _ in ours.named_parameters()] == ["gamma", "beta"]


def test_t5_layer_norm_is_the_one_of_transformers():
    from transformers.models.t5.modeling_t5 import T5LayerNorm as Reference

    torch.manual_seed(1)
    ours, theirs = T5LayerNorm(37), Reference(37, eps=1e-6)
    _randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    hidden = 3 + torch.randn(5, 7, 37)
    torch.testing.assert_close(ours(hidden), theirs(hidden))


def test_a_root_mean_square_norm_takes_a_narrower_input_in_one_kernel(recwarn):
    """As autocast's heads: the arithmetic is float32, the result has the input's type."""
    torch.manual_seed(1)
    norm, hidden = T5LayerNorm(37), torch.randn(5, 37).bfloat16()
    _randomise(norm)
    found = norm(hidden)
    assert found.dtype == torch.bfloat16 and not recwarn.list  # torch warns where it leaves its fused kernel
    assert torch.equal(found, norm(hidden.float()).bfloat16())


def test_new_norms_change_nothing_but_scale():
    hidden = torch.randn(5, 37)
    normed = LayerNorm(37)(hidden)
    torch.testing.assert_close(normed.mean(-1), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(normed.var(-1, unbiased=False), torch.ones(5))
    torch.testing.assert_close(T5LayerNorm(37)(hidden).pow(2).mean(-1), torch.ones(5))
