"""cuDNN's attention is refused where it would round the dropout probability."""

import pytest
import torch

from uer.runtime.precision import keep_dropout_exact


@pytest.fixture(autouse=True)
def flags_as_before():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize(("dropout", "whole"), [(0.0, True), (0.0625, True), (0.125, True), (0.5, True), (0.1, False),
                                                (0.03125, False), (0.3, False)])
def test_cudnn_attention_needs_a_dropout_of_whole_sixteenths(dropout, whole, allowed):
    """What the user has refused stays refused."""
    torch.backends.cuda.enable_cudnn_sdp(allowed)
    others = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
    keep_dropout_exact(dropout)
    assert torch.backends.cuda.cudnn_sdp_enabled() is (allowed and whole)
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()) == others
