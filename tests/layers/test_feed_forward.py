import torch
from torch.nn import functional as F

from uer.layers.feed_forward import DenseFeedForward, GatedFeedForward


def test_dense():
    layer = DenseFeedForward(7, 13, torch.relu)
    hidden = torch.randn(5, 7)
    expected = torch.relu(hidden @ layer.linear_1.weight.T) @ layer.linear_2.weight.T
    torch.testing.assert_close(layer(hidden), expected)


def test_gated_is_that_of_transformers_t5():
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5DenseGatedActDense

    ours = GatedFeedForward(7, 13, lambda x: F.gelu(x, approximate="tanh"), bias=False)
    theirs = T5DenseGatedActDense(T5Config(d_model=7, d_ff=13, feed_forward_proj="gated-gelu", dropout_rate=0.0))
    theirs.wi_0.weight.data.copy_(ours.linear_gate.weight)
    theirs.wi_1.weight.data.copy_(ours.linear_1.weight)
    theirs.wo.weight.data.copy_(ours.linear_2.weight)
    hidden = torch.randn(5, 7)
    torch.testing.assert_close(ours(hidden), theirs(hidden))
    assert "bias" not in " ".join(ours.state_dict())
