import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from uer.layers.rotary import Rotary, turned


def halves(vectors: torch.Tensor) -> torch.Tensor:
    """(N, heads * 8) with features 0, 2, 4, 6 of each head first: Hugging Face's order."""
    return vectors.unflatten(-1, (-1, 4, 2)).transpose(-1, -2).flatten(1)


@pytest.mark.parametrize("base", [10000.0, 500.0])
def test_equals_that_of_transformers(base):
    vectors, positions = torch.randn(13, 3 * 8), torch.tensor([0, 1, 2, 500, 7, 7, 31, 3, 4, 5, 6, 1000, 9])
    config = LlamaConfig(hidden_size=24, num_attention_heads=3, head_dim=8, rope_theta=base)
    angles = LlamaRotaryEmbedding(config)(vectors, positions[None])
    by_head = halves(vectors).view(1, 13, 3, 8).transpose(1, 2)
    expected, _ = apply_rotary_pos_emb(by_head, by_head, *angles)
    found = turned(vectors, Rotary(base).turns(positions, 8))
    torch.testing.assert_close(halves(found), expected.transpose(1, 2).reshape(13, 24), rtol=1e-4, atol=1e-4)


def test_a_score_depends_on_the_distance_alone():
    query, key, rotary = torch.randn(1, 8), torch.randn(1, 8), Rotary()
    scores = [turned(query, rotary.turns(torch.tensor([first + 5]), 8))
              @ turned(key, rotary.turns(torch.tensor([first]), 8)).T
              for first in (0, 3, 40)]
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(3, 1, 1), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores[0], query @ key.T, atol=1e-2)


def test_by_hand():
    """One pair at position 2: turned by 2 radians."""
    found = turned(torch.tensor([[1.0, 0.0]]), Rotary().turns(torch.tensor([2]), 2))
    torch.testing.assert_close(found, torch.tensor([[-0.41614684, 0.90929743]]))


def test_both_forms_and_every_type_agree(monkeypatch):
    """What torch's compiler sees has no complex numbers; half precision is turned in float32."""
    vectors, turns = torch.randn(5, 12, dtype=torch.double, requires_grad=True), Rotary().turns(torch.arange(5), 6)
    found = turned(vectors, turns)
    (gradient,) = torch.autograd.grad(found.square().sum(), vectors)
    torch.testing.assert_close(gradient, 2 * vectors)  # a turn changes no length
    assert turned(vectors.bfloat16(), turns).dtype == torch.bfloat16
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(turned(vectors, turns), found)


def test_no_vectors_can_be_turned():
    """A rank whose part of the held-out data has no predictions has no queries in the last layer."""
    turns = Rotary().turns(torch.arange(0), 4)
    assert turned(torch.empty(0, 12), turns).shape == (0, 12)
