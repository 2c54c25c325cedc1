"""Generation step by step with a cache gives what the whole row gives."""

import dataclasses

import pytest
import torch
from torch import nn

from uer.backbone import Backbone
from uer.config import ModelConfig
from uer.layers.layout import padded_layout
from uer.layers.view import Cache

CONFIG = ModelConfig(emb_size=24, hidden_size=24, feedforward_size=34, heads_num=3, layers_num=3, dropout=0.0,
                     max_seq_length=13, embedding=("word", "pos"), mask="causal", layernorm_positioning="pre")
OPTIONS = [{}, {"relative_position_embedding": True}, {"has_residual_attention": True}, {"parameter_sharing": True},
           {"mask": "causal_with_prefix"}, {"embedding": ("word", "sinusoidalpos")},
           {"alibi_position_embedding": True}, {"attention_window": 4},
           {"rotary_position_embedding": True, "attention_window": 4, "global_attention_every": 2,
            "local_rotary_base": 50.0, "query_key_layernorm": True, "heads_num": 4, "local_kv_heads_num": 2}]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
@pytest.mark.parametrize("pieces", [[1] * 9, [5, 1, 2, 1]])
@torch.no_grad()
def test_steps_equal_the_whole(option, pieces):
    torch.manual_seed(1)
    backbone = Backbone(dataclasses.replace(CONFIG, **option), 37, unpad="off").eval()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    src, seg = torch.randint(1, 37, (2, 9)), torch.full((2, 9), 2)
    seg[0, :1] = 1  # a prefix of one token: a longer one must be in the first piece
    seg[1, :3] = 0  # the padding of a shorter prompt stands first
    starts = torch.tensor([[0] * 9, [0] * 3 + [3] * 6])
    layout = padded_layout(seg, starts)
    whole = layout.scatter(backbone.encoder(backbone.embedding(src, layout), layout))
    alone = backbone.encode(src[1:, 3:], seg[1:, 3:])
    torch.testing.assert_close(whole[1:, 3:], alone, rtol=1e-4, atol=1e-4)
    cache, steps = Cache(), []
    for count in pieces:
        step = slice(cache.length, cache.length + count)
        layout = padded_layout(seg[:, step], starts[:, step], first=cache.length)
        embedded = backbone.embedding(src[:, step], layout)
        steps.append(layout.scatter(backbone.encoder(embedded, layout, cache=cache)))
    torch.testing.assert_close(torch.cat(steps, 1)[seg > 0], whole[seg > 0], rtol=1e-4, atol=1e-4)
