"""The gated convolutional encoder; `test_golden_encoders.py` holds it to the original's figures."""

import time

import pytest
import torch

from tests.tools.configs import model_config
from uer.encoders import ENCODERS
from uer.layers.layout import padded_layout
from uer.runtime.precision import cpu_has_bf16


@pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU emulates bfloat16")
def test_bfloat16_is_not_left_to_slow_kernels():
    """The gradient of a convolution with one wide channel takes 17 times as long as in float32 here."""
    config = model_config(encoder="gatedcnn", emb_size=128, hidden_size=128, layers_num=2, dropout=0.0)
    encoder, layout = ENCODERS["gatedcnn"](config), padded_layout(torch.ones(4, 64, dtype=torch.int64))
    embedded = torch.randn(256, 128, requires_grad=True)
    seconds = []
    for enabled in (False, True):
        found = []
        for _ in range(4):
            with torch.autocast("cpu", torch.bfloat16, enabled):
                hidden = encoder(embedded, layout)
            start = time.perf_counter()
            hidden.sum().backward()
            found.append(time.perf_counter() - start)
        seconds.append(min(found))
    assert seconds[1] < 5 * seconds[0]
