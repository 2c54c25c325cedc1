import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from tests.tools.layouts import LAYOUTS, exact_layout
from uer.layers import view as view_module
from uer.layers.attention import Attention
from uer.layers.layout import padded_layout, unpadded_layout
from uer.layers.masks import MASKS, Rule
from uer.layers.rotary import Rotary, turned
from uer.layers.transformer import TransformerLayer
from uer.layers.view import Cache, View

SEG = (torch.arange(9)[None] < torch.tensor([9, 4, 4, 1, 7])[:, None]).long()
SEG[0, 5:] = 2
FULL = MASKS["fully_visible"]


def _self(attention, hidden, layout, rule=FULL, **others):
    """Self-attention of all tokens."""
    return attention(hidden, hidden, View(rule, layout, **others))[0]


def _reference(attention, query, memory, mask, query_positions=None, key_positions=None):
    """One row by the textbook: (Sq, H), (Sk, H), mask (Sq, Sk) bool -> (Sq, H), a head at a time."""
    heads, kv_heads, size, scale = attention.heads
    q, k, v = (layer(x) for layer, x in zip(attention.linear_layers, (query, memory, memory)))
    if attention.rotary is not None:
        q, k = (turned(x, attention.rotary.turns(positions, size))
                for x, positions in ((q, query_positions), (k, key_positions)))
    output = []
    for head in range(heads):
        kv_head = head // (heads // kv_heads)
        here, there = slice(head * size, (head + 1) * size), slice(kv_head * size, (kv_head + 1) * size)
        scores = (q[:, here] @ k[:, there].T * scale).masked_fill(~mask, -torch.inf)
        output.append(scores.softmax(-1) @ v[:, there])
    return attention.final_linear(torch.cat(output, -1))


def _allowed(rule, seg):
    """The rule by its definition, key by key: (S,) real segments -> (S, S) bool."""
    length = len(seg)
    allowed = torch.ones(length, length, dtype=torch.bool)
    for query in range(length):
        for key in range(length):
            visible = not rule.causal or key <= query or (rule.prefix and seg[key] == 1)
            allowed[query, key] = visible and (not rule.window or abs(query - key) <= rule.window / 2)
    return allowed


KINDS = {"plain": {}, "head size": {"head_size": 4}, "grouped": {"kv_heads": 1}, "rotary": {"rotary": Rotary()},
         "unscaled": {"scale": False}, "all": {"head_size": 6, "kv_heads": 3, "rotary": Rotary(100.0), "bias": False}}
RULES = {**MASKS, "window": Rule(window=5), "causal window": Rule(causal=True, window=4)}


def _attention(kind, heads=None, hidden_size=24, **others):
    torch.manual_seed(1)
    attention = Attention(hidden_size, heads or (6 if kind == "all" else 3), **KINDS[kind], **others)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.4)
    return attention


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_padded_and_unpadded_rows_are_those_of_the_textbook(kind, rule, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(view_module, "usable", lambda _: False)
    attention, rows = _attention(kind), torch.randn(5, 9, 24)
    for make in LAYOUTS.values():
        layout = make(SEG)
        found = layout.scatter(_self(attention, layout.gather(rows), layout, RULES[rule]))
        for row in range(5):
            real = SEG[row] > 0
            here, positions = rows[row, real], torch.arange(int(real.sum()))
            expected = _reference(attention, here, here, _allowed(RULES[rule], SEG[row, real]), positions, positions)
            torch.testing.assert_close(found[row, real], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("kind", ["plain", "grouped", "head size"])
@pytest.mark.parametrize("sides", ["padded padded", "unpadded padded", "padded unpadded", "exact unpadded"])
def test_cross_attention(sides, kind, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(view_module, "usable", lambda _: False)
    attention, rows, memory_rows = _attention(kind), torch.randn(5, 7, 24), torch.randn(5, 9, 24)
    seg = (torch.arange(7)[None] < torch.tensor([2, 7, 1, 7, 5])[:, None]).long()
    ours, theirs = (LAYOUTS[side] for side in sides.split())
    layout, memory = ours(seg), theirs(SEG)
    view = View(Rule(), layout, memory=memory)
    output, _ = attention(layout.gather(rows), memory.gather(memory_rows), view)
    found = layout.scatter(output)
    for row in range(5):
        real, there = rows[row, seg[row] > 0], memory_rows[row, SEG[row] > 0]
        expected = _reference(attention, real, there, torch.ones(len(real), len(there), dtype=torch.bool))
        torch.testing.assert_close(found[row, seg[row] > 0], expected, rtol=1e-4, atol=1e-4)
    positions = torch.tensor([[1, 0], [6, 2], [0, 0], [3, 3], [0, 4]])
    wanted = layout.queries(positions, torch.ones(5, 2, dtype=torch.bool))
    narrow = view.narrowed(wanted)
    some, _ = attention(narrow.select(layout.gather(rows)), memory.gather(memory_rows), narrow)
    torch.testing.assert_close(some, output[wanted.index])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["causal", "causal window"])
@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 3, 1]])
def test_a_cache_gives_what_the_whole_row_gives(kind, rule, pieces):
    """Rows of lengths 9 and 6: the shorter one has its padding first, as generation has prompts."""
    attention, rows, seg = _attention(kind), torch.randn(2, 9, 24), torch.ones(2, 9, dtype=torch.int64)
    seg[1, :3] = 0
    starts = torch.tensor([[0] * 9, [0] * 3 + [3] * 6])
    layout = padded_layout(seg, starts)
    whole = layout.scatter(_self(attention, layout.gather(rows), layout, RULES[rule]))
    alone = _self(attention, rows[1, 3:], padded_layout(seg[1:, 3:]), RULES[rule])
    torch.testing.assert_close(whole[1, 3:], alone, rtol=1e-4, atol=1e-4)
    cache, steps = Cache(), []
    for first, last in zip((sum(pieces[:n]) for n in range(9)), (sum(pieces[:n + 1]) for n in range(len(pieces)))):
        step = slice(first, last)
        layout = padded_layout(seg[:, step], starts[:, step], first=cache.length)
        steps.append(layout.scatter(_self(attention, layout.gather(rows[:, step]), layout, RULES[rule], cache=cache)))
    assert cache.length == 9
    torch.testing.assert_close(torch.cat(steps, 1)[seg > 0], whole[seg > 0], rtol=1e-4, atol=1e-4)


def test_a_cache_keeps_the_projections_of_a_source():
    attention, memory_rows, query = _attention("plain"), torch.randn(5, 9, 24), torch.randn(5, 24)
    memory, cache, one = unpadded_layout(SEG), Cache(), torch.ones(5, 1, dtype=torch.int64)
    expected, _ = attention(query, memory.gather(memory_rows), View(Rule(), padded_layout(one), memory=memory))
    for source in (memory.gather(memory_rows), None):
        found, _ = attention(query, source, View(Rule(), padded_layout(one), memory=memory, cache=cache))
        torch.testing.assert_close(found, expected)


def test_rows_of_a_cache_can_be_chosen_and_repeated():
    attention, rows, chosen = _attention("rotary"), torch.randn(3, 4, 24), torch.tensor([2, 0, 2, 2])
    whole, cache = padded_layout(torch.ones(4, 4, dtype=torch.int64)), Cache()
    expected = whole.scatter(_self(attention, rows[chosen].flatten(0, 1), whole, MASKS["causal"]))
    first = padded_layout(torch.ones(3, 3, dtype=torch.int64))
    _self(attention, rows[:, :3].flatten(0, 1), first, MASKS["causal"], cache=cache)
    cache.select_rows(chosen)
    last = padded_layout(torch.ones(4, 1, dtype=torch.int64), first=cache.length)
    found = _self(attention, rows[chosen, 3], last, MASKS["causal"], cache=cache)
    torch.testing.assert_close(found, expected[:, 3], rtol=1e-4, atol=1e-5)


def test_grouped_rotary_attention_equals_llama_of_transformers():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=24, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
                         attention_bias=False, rope_theta=500.0, attn_implementation="eager")
    theirs = LlamaAttention(config, layer_idx=0).eval()
    ours = Attention(24, 6, head_size=8, kv_heads=2, rotary=Rotary(500.0), bias=False)
    for layer, their in zip([*ours.linear_layers, ours.final_linear],
                            (theirs.q_proj, theirs.k_proj, theirs.v_proj, theirs.o_proj)):
        layer.weight.data.copy_(their.weight)
    for layer in ours.linear_layers[:2]:  # the halves of a head are Hugging Face's pairs, neighbours ours
        layer.weight.data = layer.weight.unflatten(0, (-1, 2, 4)).transpose(1, 2).flatten(0, 2)
    rows = torch.randn(2, 13, 24)
    angles = LlamaRotaryEmbedding(config)(rows, torch.arange(13).expand(2, -1))
    mask = torch.full((13, 13), -torch.inf).triu(1).expand(2, 1, -1, -1)
    expected, _ = theirs(rows, angles, mask)
    layout = padded_layout(torch.ones(2, 13, dtype=torch.int64))
    found = layout.scatter(_self(ours, layout.gather(rows), layout, MASKS["causal"]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["normal", "rms"])
def test_normalised_heads_keep_their_type(kind):
    """Autocast on a GPU lets norms return float32; kernels for sequences of different lengths take bfloat16."""
    attention, vectors = Attention(16, 2, head_norm=kind), torch.randn(5, 16)

    def norm(heads):
        return attention.query_layer_norm(heads.float())

    found = attention.normalised(vectors.bfloat16(), norm)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), attention.normalised(vectors, norm), rtol=0, atol=0.05)


def test_a_position_bias_is_added_before_the_scale():
    torch.manual_seed(1)
    hidden, layout = torch.randn(9, 20), padded_layout(SEG[:1])
    attention = Attention(20, 5)
    favourite = torch.zeros(1, 5, 9, 9)
    favourite[..., 4] = 1000.0
    output = _self(attention, hidden, layout, bias=favourite)
    value = attention.linear_layers[2](hidden[4])
    torch.testing.assert_close(output, attention.final_linear(value).expand(9, -1))


def test_residual_attention_adds_the_scores_of_the_layer_before():
    torch.manual_seed(1)
    hidden, layout = torch.randn(9, 20), padded_layout(SEG[:1])
    attention, view = Attention(20, 5, residual=True), View(FULL, layout)
    plain = Attention(20, 5)
    plain.load_state_dict(attention.state_dict())
    first, scores = attention(hidden, hidden, view)
    torch.testing.assert_close(first, _self(plain, hidden, layout))
    second, summed = attention(hidden, hidden, view, scores)
    doubled = Attention(20, 5)
    doubled.load_state_dict(attention.state_dict())
    doubled.linear_layers[0].weight.data *= 2
    torch.testing.assert_close(second, _self(doubled, hidden, layout))
    torch.testing.assert_close(summed[0], 2 * scores[0])


def test_dropout_only_while_training():
    torch.manual_seed(1)
    hidden, layout = torch.randn(9, 20), padded_layout(SEG[:1])
    attention = Attention(20, 5, dropout=0.5)
    assert not torch.equal(_self(attention, hidden, layout), _self(attention, hidden, layout))
    attention.eval()
    assert torch.equal(_self(attention, hidden, layout), _self(attention, hidden, layout))


class LowRank(nn.Module):
    """A layer with an addend of rank 2 (Hu et al., 2021, LoRA): what a user may put in a layer's place."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.down = nn.Parameter(torch.randn(2, inner.in_features))
        self.up = nn.Parameter(torch.randn(inner.out_features, 2))

    def forward(self, x):
        return self.inner(x) + x @ self.down.T @ self.up.T


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, weight):
        return weight * self.factor


@pytest.mark.parametrize("wrapped", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("narrow", [False, True])
def test_a_module_in_a_layers_place_is_called(wrapped, narrow):
    """The result is that of a plain layer with the summed weight, and gradients reach the addend."""
    torch.manual_seed(1)
    layer, plain = (TransformerLayer(20, 5, 30, F.gelu, 0.0) for _ in range(2))
    plain.load_state_dict(layer.state_dict())
    for number in wrapped:
        wrapper = LowRank(layer.self_attn.linear_layers[number])
        layer.self_attn.linear_layers[number] = wrapper
        plain.self_attn.linear_layers[number].weight.data += (wrapper.up @ wrapper.down).detach()
    layout, hidden = exact_layout(SEG), torch.randn(25, 20)
    view = View(FULL, layout)
    if narrow:
        view = view.narrowed(layout.queries(torch.zeros(5, 1, dtype=torch.int64), torch.ones(5, 1, dtype=torch.bool)))
    output, _ = layer(hidden, view)
    torch.testing.assert_close(output, plain(hidden, view)[0], rtol=1e-4, atol=1e-5)
    (output * torch.randn_like(output)).sum().backward()
    for number in wrapped:
        wrapper = layer.self_attn.linear_layers[number]
        assert wrapper.down.grad.abs().max() > 0 and wrapper.up.grad.abs().max() > 0


@pytest.mark.parametrize("number", range(3))
def test_a_parametrised_layer_works(number):
    torch.manual_seed(1)
    attention, plain = Attention(20, 5), Attention(20, 5)
    plain.load_state_dict(attention.state_dict())
    plain.linear_layers[number].weight.data *= 2
    parametrize.register_parametrization(attention.linear_layers[number], "weight", Doubled())
    hidden, layout = torch.randn(9, 20), padded_layout(SEG[:1])
    output = _self(attention, hidden, layout)
    torch.testing.assert_close(output, _self(plain, hidden, layout))
    (output * torch.randn_like(output)).sum().backward()
    assert attention.linear_layers[number].parametrizations.weight[0].factor.grad.abs() > 0
    assert attention.linear_layers[number].parametrizations.weight.original.grad.abs().max() > 0


def test_hooks_of_a_layer_run():
    attention, seen = Attention(20, 5), []
    for number, layer in enumerate(attention.linear_layers):
        layer.register_forward_hook(lambda module, inputs, output, number=number: seen.append(number))
    _self(attention, torch.randn(9, 20), padded_layout(SEG[:1]))
    assert seen == [0, 1, 2]
