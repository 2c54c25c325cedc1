"""Every option of the encoder, against models of transformers that have it, or by what must follow from it."""

import dataclasses

import pytest
import torch
from torch import nn

from uer.backbone import Backbone
from uer.config import ModelConfig
from uer.errors import UserError

VOCAB = 37
CONFIG = ModelConfig(emb_size=21, hidden_size=21, feedforward_size=34, heads_num=3, layers_num=2, dropout=0.0,
                     max_seq_length=19, embedding=("word", "pos", "seg"))
LENGTHS = torch.tensor([13, 5, 1, 9, 5])
SEG = (torch.arange(13)[None] < LENGTHS[:, None]).long()
SRC = torch.randint(0, VOCAB, (5, 13), generator=torch.Generator().manual_seed(1))

OPTIONS = {
    "plain": {},
    "pre_norm": {"layernorm_positioning": "pre"},
    "gated": {"feed_forward": "gated"},
    "factorized": {"emb_size": 8, "factorized_embedding_parameterization": True},
    "sharing": {"parameter_sharing": True},
    "relative": {"relative_position_embedding": True},
    "t5_norm": {"layernorm": "t5"},
    "no_bias": {"remove_transformer_bias": True},
    "no_scale": {"remove_attention_scale": True},
    "residual_attention": {"has_residual_attention": True},
    "causal": {"mask": "causal"},
    "prefix": {"mask": "causal_with_prefix"},
    "relu": {"hidden_act": "relu"},
    "rotary": {"rotary_position_embedding": True, "attention_head_size": 6},
    "grouped": {"heads_num": 4, "attention_head_size": 6, "local_kv_heads_num": 2, "rotary_position_embedding": True,
                "mask": "causal"},
    "alibi": {"alibi_position_embedding": True},
    "causal_alibi": {"alibi_position_embedding": True, "mask": "causal"},
    "local": {"attention_window": 4},
    "modern": {"attention_window": 4, "global_attention_every": 3, "layers_num": 4, "rotary_position_embedding": True,
               "attention_head_size": 6, "local_rotary_base": 100.0, "layernorm_positioning": "pre",
               "remove_layernorm_bias": True, "remove_first_layernorm": True},
    "causal_local": {"attention_window": 4, "mask": "causal"},
    "head_norms": {"query_key_layernorm": True, "query_key_value_bias": True, "remove_transformer_bias": True,
                   "layernorm": "rms", "rotary_position_embedding": True, "attention_head_size": 6},
}


def _backbone(unpad="on", **settings) -> Backbone:
    torch.manual_seed(2)
    backbone = Backbone(dataclasses.replace(CONFIG, **settings), VOCAB, unpad=unpad)
    for parameter in backbone.parameters():  # far from their start, so that every term weighs
        nn.init.normal_(parameter, std=0.3)
    return backbone.eval()


def _twin(backbone: Backbone, unpad: str, **settings) -> Backbone:
    twin = Backbone(dataclasses.replace(backbone.config, **settings), VOCAB, unpad=unpad).eval()
    twin.load_state_dict(backbone.state_dict())
    return twin


@pytest.mark.parametrize("option", OPTIONS)
def test_padding_is_never_seen_and_need_not_be_computed(option):
    backbone = _backbone(**OPTIONS[option])
    unpadded = backbone.encode(SRC, SEG)
    padded = _twin(backbone, "off").encode(SRC, SEG)
    real = SEG > 0
    torch.testing.assert_close(unpadded[real], padded[real], rtol=1e-4, atol=1e-5)
    other = _twin(backbone, "off").encode(torch.where(real, SRC, (SRC + 1) % VOCAB), SEG)
    torch.testing.assert_close(other[real], padded[real], rtol=1e-4, atol=1e-5)
    alone = backbone.encode(SRC[1:2, :5], SEG[1:2, :5])
    torch.testing.assert_close(alone[0], padded[1, :5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("unpad", ["on", "off"])
def test_chosen_positions_are_those_of_the_whole_encoding(option, unpad):
    backbone = _backbone(unpad, **OPTIONS[option])
    positions = torch.tensor([[12, 0], [1, 4], [0, 0], [8, 2], [0, 3]])
    whole = backbone.encode(SRC, SEG)
    chosen = whole.gather(1, positions.unsqueeze(-1).expand(-1, -1, 21))
    torch.testing.assert_close(backbone.encode_at(SRC, SEG, positions), chosen, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", OPTIONS)
def test_recomputing_layers_gives_the_same_gradients(option):
    """With dropout: the recomputation must draw the same masks."""
    gradients = []
    for recompute in (False, True):
        backbone = _backbone(**{"dropout": 0.2, **OPTIONS[option]}).train()
        backbone.encoder.checkpoint_activations(recompute)
        torch.manual_seed(5)
        backbone.encode(SRC, SEG).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in backbone.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize(("mask", "changed"), [("fully_visible", [1, 1, 1, 1, 1]), ("causal", [0, 0, 0, 1, 1]),
                                               ("causal_with_prefix", [0, 0, 0, 1, 1])])
def test_who_sees_a_later_token(mask, changed):
    """Of five tokens, behind which is padding, the fourth is changed."""
    backbone = _backbone("off", mask=mask)
    seg = torch.tensor([[1, 1, 2, 2, 2, 0]])
    src = torch.tensor([[3, 4, 5, 6, 7, 0]])
    other = src.clone()
    other[0, 3] = 8
    difference = (backbone.encode(src, seg) - backbone.encode(other, seg)).abs().amax(-1)[0] > 1e-6
    assert difference[:5].int().tolist() == changed


def test_a_prefix_sees_its_own_later_tokens():
    backbone = _backbone("off", mask="causal_with_prefix")
    seg = torch.tensor([[1, 1, 1, 2]])
    one, other = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[3, 4, 7, 6]])
    difference = (backbone.encode(one, seg) - backbone.encode(other, seg)).abs().amax(-1)[0] > 1e-6
    assert difference.tolist() == [True] * 4


def test_a_row_of_nothing_but_padding_is_harmless():
    seg = SEG.clone()
    seg[2] = 0
    for unpad in ("on", "off"):
        backbone = _backbone(unpad)
        hidden = backbone.encode(SRC, seg)
        assert hidden.isfinite().all()
        hidden.sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in backbone.parameters())


def test_a_batch_of_nothing_but_padding_is_harmless():
    backbone, seg = _backbone(), torch.zeros_like(SEG)
    assert backbone.encode(SRC, seg).isfinite().all()
    assert backbone.encode_at(SRC, seg, torch.zeros(5, 1, dtype=torch.int64)).shape == (5, 1, 21)


def test_names_of_a_layers_parameters():
    names = set(_backbone(feed_forward="gated", layernorm_positioning="pre").encoder.state_dict())
    assert "transformer.1.feed_forward.linear_gate.weight" in names and "layer_norm.gamma" in names
    shared = set(_backbone(parameter_sharing=True, emb_size=8, factorized_embedding_parameterization=True,
                           relative_position_embedding=True).encoder.state_dict())
    assert {"transformer.self_attn.linear_layers.0.weight", "linear.weight",
            "relative_pos_emb.relative_attention_bias.weight"} <= shared


def test_albert_equals_that_of_transformers():
    """Factorized embedding and parameter sharing."""
    from transformers import AlbertConfig, AlbertModel

    theirs = AlbertModel(AlbertConfig(
        vocab_size=VOCAB, embedding_size=8, hidden_size=21, num_hidden_layers=3, num_attention_heads=3,
        intermediate_size=34, hidden_act="gelu", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        max_position_embeddings=19, type_vocab_size=2, layer_norm_eps=1e-12), add_pooling_layer=False).eval()
    backbone = _backbone(emb_size=8, factorized_embedding_parameterization=True, parameter_sharing=True, layers_num=3)
    layer, shared = "encoder.albert_layer_groups.0.albert_layers.0.", "encoder.transformer."
    names = {"embeddings.word_embeddings": "embedding.word.embedding", "embeddings.LayerNorm": "embedding.layer_norm",
             "embeddings.position_embeddings": "embedding.pos.embedding",
             "embeddings.token_type_embeddings": "embedding.seg.embedding",
             "encoder.embedding_hidden_mapping_in": "encoder.linear",
             layer + "attention.query": shared + "self_attn.linear_layers.0",
             layer + "attention.key": shared + "self_attn.linear_layers.1",
             layer + "attention.value": shared + "self_attn.linear_layers.2",
             layer + "attention.dense": shared + "self_attn.final_linear",
             layer + "attention.LayerNorm": shared + "layer_norm_1", layer + "ffn": shared + "feed_forward.linear_1",
             layer + "ffn_output": shared + "feed_forward.linear_2",
             layer + "full_layer_layer_norm": shared + "layer_norm_2"}
    _copy(backbone, theirs, names)
    expected = theirs(SRC, attention_mask=SEG, token_type_ids=torch.zeros_like(SRC)).last_hidden_state
    torch.testing.assert_close(backbone.encode(SRC, SEG)[SEG > 0], expected[SEG > 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("feed_forward", ["dense", "gated"])
def test_t5_encoder_equals_that_of_transformers(feed_forward):
    """Pre-norm, T5 norm, relative positions, no biases, no attention scale, no embedding norm, gated feed-forward."""
    from transformers import T5Config, T5EncoderModel

    kind = "relu" if feed_forward == "dense" else "gated-gelu"
    theirs = T5EncoderModel(T5Config(
        vocab_size=VOCAB, d_model=21, d_kv=7, d_ff=34, num_layers=3, num_heads=3, feed_forward_proj=kind,
        dropout_rate=0.0, relative_attention_num_buckets=20, layer_norm_epsilon=1e-6)).eval()
    backbone = _backbone(
        layers_num=3, embedding=("word",), remove_embedding_layernorm=True, layernorm_positioning="pre", layernorm="t5",
        relative_position_embedding=True, relative_attention_buckets_num=20, remove_transformer_bias=True,
        remove_attention_scale=True, feed_forward=feed_forward,
        hidden_act="relu" if feed_forward == "dense" else "gelu_fast")
    names = {"shared": "embedding.word.embedding", "encoder.final_layer_norm": "encoder.layer_norm",
             "encoder.block.0.layer.0.SelfAttention.relative_attention_bias":
             "encoder.relative_pos_emb.relative_attention_bias"}
    parts = ({"wi": "linear_1", "wo": "linear_2"} if feed_forward == "dense"
             else {"wi_0": "linear_gate", "wi_1": "linear_1", "wo": "linear_2"})
    for number in range(3):
        their, our = f"encoder.block.{number}.layer.", f"encoder.transformer.{number}."
        for letter, name in zip("qkvo", ("linear_layers.0", "linear_layers.1", "linear_layers.2", "final_linear")):
            names[f"{their}0.SelfAttention.{letter}"] = f"{our}self_attn.{name}"
        names[their + "0.layer_norm"], names[their + "1.layer_norm"] = our + "layer_norm_1", our + "layer_norm_2"
        for part, name in parts.items():
            names[f"{their}1.DenseReluDense.{part}"] = f"{our}feed_forward.{name}"
    _copy(backbone, theirs, names)
    expected = theirs(SRC, attention_mask=SEG).last_hidden_state
    torch.testing.assert_close(backbone.encode(SRC, SEG)[SEG > 0], expected[SEG > 0], rtol=1e-4, atol=1e-5)


def test_causal_pre_norm_encoder_equals_gpt2_of_transformers():
    from transformers import GPT2Config, GPT2Model

    theirs = GPT2Model(GPT2Config(
        vocab_size=VOCAB, n_positions=19, n_embd=21, n_layer=2, n_head=3, n_inner=34, activation_function="gelu_new",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, layer_norm_epsilon=1e-12)).eval()
    backbone = _backbone(embedding=("word", "pos"), remove_embedding_layernorm=True, layernorm_positioning="pre",
                         mask="causal", hidden_act="gelu_fast")
    names = {"wte": "embedding.word.embedding", "wpe": "embedding.pos.embedding", "ln_f": "encoder.layer_norm"}
    for number in range(2):
        their, our = f"h.{number}.", f"encoder.transformer.{number}."
        names |= {their + "ln_1": our + "layer_norm_1", their + "ln_2": our + "layer_norm_2",
                  their + "attn.c_proj": our + "self_attn.final_linear",
                  their + "mlp.c_fc": our + "feed_forward.linear_1",
                  their + "mlp.c_proj": our + "feed_forward.linear_2"}
    _copy(backbone, theirs, names, transposed=("c_proj", "c_fc"))
    for number in range(2):
        layers = backbone.encoder.transformer[number].self_attn.linear_layers
        attention = theirs.h[number].attn.c_attn
        attention.weight.data = torch.cat([layer.weight for layer in layers]).T.contiguous()
        attention.bias.data = torch.cat([layer.bias for layer in layers])
    expected = theirs(SRC, attention_mask=SEG).last_hidden_state
    torch.testing.assert_close(backbone.encode(SRC, SEG)[SEG > 0], expected[SEG > 0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def _copy(ours: nn.Module, theirs: nn.Module, names: dict[str, str], transposed: tuple[str, ...] = ()) -> None:
    """Give their modules our parameters; `names` maps theirs to ours."""
    modules = dict(theirs.named_modules())
    weights = ours.state_dict()
    endings = {"weight": ("weight", "gamma"), "bias": ("bias", "beta")}
    for their, our in names.items():
        for name, parameter in modules[their].named_parameters(recurse=False):
            source = next(weights[f"{our}.{ending}"] for ending in endings[name] if f"{our}.{ending}" in weights)
            if their.endswith(transposed) and transposed and source.dim() == 2:
                source = source.T
            parameter.copy_(source[:len(parameter)] if "token_type" not in their else source[1:3])


@pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)
def test_the_residual_sums_are_float32_under_autocast(settings):
    """A projection of the embeddings is a product and so bfloat16, but its sums with the layers' results are not."""
    backbone = _backbone(**settings)
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone.encode(SRC, SEG).dtype == torch.float32


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="hidden_act: 'swish' is unknown; choose from: gelu"):
        Backbone(dataclasses.replace(CONFIG, hidden_act="swish"), VOCAB)
    with pytest.raises(UserError, match="--encoder: 'duel' is unknown; choose from: transformer"):
        Backbone(dataclasses.replace(CONFIG, encoder="duel"), VOCAB)
    with pytest.raises(UserError, match="--embedding: 'duel' is unknown; choose from: word"):
        Backbone(dataclasses.replace(CONFIG, embedding=("duel",)), VOCAB)


def test_a_row_longer_than_the_position_embedding_is_refused():
    with pytest.raises(UserError, match="max_seq_length 19"):
        _backbone().encode(torch.zeros(1, 20, dtype=torch.int64), torch.ones(1, 20, dtype=torch.int64))
