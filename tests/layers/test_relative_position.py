import pytest
import torch
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Attention

from uer.layers.relative_position import RelativePositionBias, relative_position_bucket


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("buckets", [32, 20])
def test_buckets_equal_those_of_transformers(bidirectional, buckets):
    distance = torch.arange(-300, 301)
    expected = T5Attention._relative_position_bucket(distance, bidirectional, buckets, 128)
    assert torch.equal(relative_position_bucket(distance, buckets, bidirectional), expected)


def test_bias_equals_that_of_transformers():
    ours = RelativePositionBias(heads=3, buckets=32)
    theirs = T5Attention(T5Config(num_heads=3, d_kv=4, d_model=12), has_relative_attention_bias=True, layer_idx=0)
    theirs.relative_attention_bias.weight.data.copy_(ours.relative_attention_bias.weight)
    torch.testing.assert_close(ours(37), theirs.compute_bias(37, 37))
