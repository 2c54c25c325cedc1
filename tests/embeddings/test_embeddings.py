import math

import pytest
import torch

from tests.tools.layouts import exact_layout
from uer.config import ModelConfig
from uer.embeddings import EMBEDDINGS, EmbeddingSum
from uer.embeddings import position as position_module
from uer.embeddings import segment as segment_module
from uer.layers.layout import padded_layout

VOCAB = 37
SRC = torch.randint(0, VOCAB, (5, 7))
SEG = (torch.arange(7)[None] < torch.tensor([7, 3, 1, 5, 5])[:, None]).long()
SEG[0, 4:] = 2


def _sum(*names, **settings) -> EmbeddingSum:
    config = ModelConfig(emb_size=12, hidden_size=12, heads_num=3, max_seq_length=9, embedding=names, **settings)
    return EmbeddingSum({name: EMBEDDINGS[name](config, VOCAB) for name in names}, config)


def test_word_position_and_segment_are_summed():
    embedding = _sum("word", "pos", "seg", remove_embedding_layernorm=True).eval()
    weights = embedding.state_dict()
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        "word.embedding.weight": (37, 12), "pos.embedding.weight": (9, 12), "seg.embedding.weight": (3, 12)}
    summed = embedding(SRC, padded_layout(SEG)).view(5, 7, 12)
    for row, column in ((0, 0), (0, 6), (1, 2), (1, 5), (4, 4)):
        torch.testing.assert_close(summed[row, column], weights["word.embedding.weight"][SRC[row, column]]
                                   + weights["pos.embedding.weight"][column]
                                   + weights["seg.embedding.weight"][SEG[row, column]])


def test_without_padding_the_real_positions_are_the_same():
    embedding = _sum("word", "pos", "seg").eval()
    padded = embedding(SRC, padded_layout(SEG)).view(5, 7, 12)
    layout = exact_layout(SEG)
    unpadded = layout.scatter(embedding(SRC, layout))
    torch.testing.assert_close(unpadded, padded * (SEG > 0).unsqueeze(-1))


def test_layer_norm_and_dropout():
    embedding = _sum("word", "pos", dropout=0.3)
    assert "layer_norm.gamma" in embedding.state_dict()
    output = embedding(SRC, padded_layout(SEG))
    assert 0.2 < (output == 0).double().mean() < 0.4
    normed = embedding.eval()(SRC, padded_layout(SEG))
    torch.testing.assert_close(normed.mean(-1), torch.zeros(35), atol=1e-6, rtol=0)


def test_sinusoidal_positions():
    embedding = _sum("sinusoidalpos", remove_embedding_layernorm=True, dropout=0.0)
    assert not embedding.state_dict()
    output = embedding(SRC, padded_layout(SEG)).view(5, 7, 12)
    for position in range(7):
        for pair in range(6):
            angle = position / 10000 ** (2 * pair / 12)
            assert abs(output[3, position, 2 * pair].item() - math.sin(angle)) < 1e-6
            assert abs(output[3, position, 2 * pair + 1].item() - math.cos(angle)) < 1e-6


def test_the_word_embedding_is_multiplied_where_sines_are_added_to_it():
    """Vaswani et al., 2017, 3.4: by the root of the embedding's width."""
    embedding = _sum("word", "sinusoidalpos", remove_embedding_layernorm=True, dropout=0.0)
    word, sines = embedding.word.embedding.weight, embedding.sinusoidalpos.table
    output = embedding(SRC, padded_layout(SEG)).view(5, 7, 12)
    torch.testing.assert_close(output[3, 4], math.sqrt(12) * word[SRC[3, 4]] + sines[4])


@pytest.mark.parametrize("layout", [padded_layout(SEG), padded_layout(SEG, first=2), exact_layout(SEG),
                                    padded_layout(SEG, starts=torch.tensor([[0, 0, 0, 3, 3, 5, 5]]).expand(5, -1))],
                         ids=["padded", "after a cache", "unpadded", "documents"])
def test_the_forms_for_static_shapes_have_the_values_and_gradients_of_lookups(layout, monkeypatch):
    """On a CPU gradients are sums in another order; values are the same to the bit."""
    embedding = _sum("word", "pos", "seg", remove_embedding_layernorm=True).double().eval()
    looked_up = embedding(SRC, layout)
    weights = torch.randn_like(looked_up)
    expected = torch.autograd.grad((looked_up * weights).sum(), embedding.parameters())
    for module in (position_module, segment_module):
        monkeypatch.setattr(module, "static_shapes", lambda tensor: True)
    static = embedding(SRC, layout)
    assert torch.equal(static, looked_up)
    for name, found, wanted in zip(embedding.state_dict(), torch.autograd.grad((static * weights).sum(),
                                                                               embedding.parameters()), expected):
        assert wanted.any(), name
        torch.testing.assert_close(found, wanted)


def test_static_forms_add_no_gradients_by_index(monkeypatch):
    """The backward pass of positions and segments has no embedding lookup's."""
    for module in (position_module, segment_module):
        monkeypatch.setattr(module, "static_shapes", lambda tensor: True)
    output = _sum("pos", "seg", remove_embedding_layernorm=True, dropout=0.0)(SRC, padded_layout(SEG))
    with torch.profiler.profile() as profile:
        output.sum().backward()
    names = {event.name for event in profile.events()}
    assert any("sum" in name for name in names) and not any("embedding" in name or "index" in name for name in names)


def test_weights_start_as_berts():
    torch.manual_seed(1)
    config = ModelConfig(emb_size=100, hidden_size=100)
    weight = EMBEDDINGS["word"](config, 5000).embedding.weight
    assert abs(weight.mean().item()) < 1e-4 and abs(weight.std().item() - 0.02) < 1e-4


def test_every_name_is_built():
    assert set(EMBEDDINGS) == {"word", "pos", "seg", "sinusoidalpos", "dual"}
