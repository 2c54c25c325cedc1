"""The recurrent encoders; `test_golden_encoders.py` holds them to the original's figures."""

import pytest
import torch

from tests.tools.configs import model_config
from uer.backbone import Backbone
from uer.errors import UserError

CONFIG = {"emb_size": 13, "hidden_size": 32, "layers_num": 2, "dropout": 0.0, "max_seq_length": 9, "encoder": "lstm"}
SEG = (torch.arange(7)[None] < torch.tensor([7, 3, 1])[:, None]).long()
SRC = torch.randint(1, 37, (3, 7), generator=torch.Generator().manual_seed(1))


def _backbone(encoder="lstm", unpad="auto", **settings):
    torch.manual_seed(2)
    return Backbone(model_config(**{**CONFIG, "encoder": encoder, **settings}), 37, unpad=unpad).eval()


@pytest.mark.parametrize("encoder", ["rnn", "lstm", "gru"])
def test_names_are_torchs(encoder):
    names = set(_backbone(encoder, bidirectional=True).encoder.state_dict())
    assert {"rnn.weight_ih_l0", "rnn.bias_hh_l1_reverse"} <= names
    split = set(_backbone(f"bi{encoder}").encoder.state_dict())
    assert {"rnn_forward.weight_hh_l1", "rnn_backward.bias_ih_l0"} <= split
    assert not any("reverse" in key for key in split)


@pytest.mark.parametrize("encoder", ["birnn", "bilstm", "bigru"])
def test_the_halves_have_seen_the_left_and_the_right(encoder):
    backbone = _backbone(encoder)
    other = SRC.clone()
    other[0, 3] = other[0, 3] % 36 + 1
    changed = (backbone.encode(SRC, SEG) - backbone.encode(other, SEG)).abs()[0] > 1e-7  # (S, H)
    assert changed[:, :16].any(1).tolist() == [False] * 3 + [True] * 4
    assert changed[:, 16:].any(1).tolist() == [True] * 4 + [False] * 3


@pytest.mark.parametrize("settings", [{"encoder": "bilstm"}, {"encoder": "gru", "bidirectional": True}])
def test_padding_that_is_read_is_never_left_out(settings):
    assert torch.equal(_backbone(**settings).encode(SRC, SEG), _backbone(unpad="off", **settings).encode(SRC, SEG))
    with pytest.raises(UserError, match=r"--unpad on: the encoder .* padding"):
        _backbone(unpad="on", **settings)


def test_what_they_cannot_do_is_refused():
    with pytest.raises(UserError, match="--document_attention: the encoder 'lstm'"):
        Backbone(model_config(**CONFIG), 37, document_start=3)
    with pytest.raises(UserError, match="hidden_size 31 must be even"):
        _backbone("bigru", hidden_size=31)
    with pytest.raises(UserError, match="--activation_checkpointing"):
        _backbone().encoder.checkpoint_activations(True)


def test_dropout_between_layers_and_on_the_output():
    backbone = _backbone(dropout=0.3).train()
    backbone.embedding.eval()
    output = backbone.encode(SRC, SEG)[SEG > 0]
    assert 0.2 < (output == 0).double().mean() < 0.4
    assert backbone.encoder.rnn.dropout == 0.3
