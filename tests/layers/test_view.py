"""What a query may attend to, and how torch's attention is called for it."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from tests.tools.layouts import LAYOUTS, exact_layout
from uer.layers import view as module
from uer.layers.layout import packed_layout, padded_layout, unpadded_layout
from uer.layers.masks import MASKS, Rule
from uer.layers.view import Cache, Heads, View

HEADS = Heads(3, 3, 7, 0.4)
SEG = torch.tensor([[1, 1, 2, 2, 0]])
RULES = {**MASKS, "window": Rule(window=2), "causal window": Rule(causal=True, window=3)}

ALLOWED = {  # ALLOWED[rule][query] = the keys that a real query attends to
    "fully_visible": ["11110", "11110", "11110", "11110"],
    "causal": ["10000", "11000", "11100", "11110"],
    "causal_with_prefix": ["11000", "11000", "11100", "11110"],
    "window": ["11000", "11100", "01110", "00110"],
    "causal window": ["10000", "11000", "01100", "00110"],
}


def attended(view, number=0):
    """For each query of a group's first row, the keys whose value reaches it: 1, else 0."""
    tokens = len(view.keys.gather(view.keys.seg))
    packed = torch.zeros(tokens, 2 * 3 * 7)
    found = []
    for token in range(tokens):  # a key's value is 1, all others' 0: with even scores every attended key has a weight
        packed[:, 21:] = 0
        packed[token, 21:] = 1
        output, _ = view.attend(torch.zeros(len(view.select(packed)), 21), packed, HEADS)
        found.append((output[:, 0] > 1e-6).int().tolist())
    return ["".join(map(str, row)) for row in zip(*found)]


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_which_keys_a_query_attends_to(rule, kernel, monkeypatch):
    monkeypatch.setattr(module, "usable", lambda _: kernel)
    assert attended(View(RULES[rule], padded_layout(SEG)))[:4] == ALLOWED[rule]
    assert attended(View(RULES[rule], unpadded_layout(SEG))) == [row[:4] for row in ALLOWED[rule]]


@pytest.mark.parametrize("heads, residual", [(HEADS, False), (HEADS, True), (Heads(4, 2, 7, 0.4), False)])
@pytest.mark.parametrize("rule", RULES)
def test_under_autocast_on_a_cpu_attention_is_computed_in_float32(rule, heads, residual):
    """Of the projections, which are bfloat16; rows of 5 and 4 positions."""
    layout = exact_layout(torch.tensor([[1, 1, 2, 2, 0], [1, 2, 2, 2, 2]]))
    packed = torch.randn(9, 2 * heads.kv_heads * 7, dtype=torch.bfloat16, requires_grad=True)
    query = torch.randn(9, heads.heads * 7, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        ours, _ = View(RULES[rule], layout).attend(query, packed, heads, residual=residual)
    theirs, _ = View(RULES[rule], layout).attend(query.float(), packed.float(), heads, residual=residual)
    assert ours.dtype == torch.float32 and torch.equal(ours, theirs)
    (gradient,) = torch.autograd.grad(ours.sum(), packed)
    assert torch.equal(gradient, torch.autograd.grad(theirs.sum(), packed)[0])


@pytest.mark.parametrize("kernel", [True, False])
def test_documents_of_a_row_do_not_attend_to_one_another(kernel, monkeypatch):
    monkeypatch.setattr(module, "usable", lambda _: kernel)
    starts = torch.tensor([[0, 0, 2, 2, 2]])
    for make in LAYOUTS.values():
        view = View(MASKS["fully_visible"], make(SEG, starts))
        assert [row[:4] for row in attended(view)][:4] == ["1100", "1100", "0011", "0011"]
        view = View(MASKS["causal"], make(SEG, starts))
        assert [row[:4] for row in attended(view)][:4] == ["1000", "1100", "0010", "0011"]


@pytest.mark.parametrize("kernel", [True, False])
def test_rows_of_which_nothing_is_wanted(kernel, monkeypatch):
    """Rows that only fill an evaluation's last batch may be all there is of their length."""
    monkeypatch.setattr(module, "usable", lambda _: kernel)
    layout = exact_layout(torch.tensor([[1, 1, 1], [1, 1, 0]]))
    view = View(MASKS["fully_visible"], layout)
    packed, query = torch.randn(5, 2 * 3 * 7), torch.randn(5, 21)
    all_of_them, _ = view.attend(query, packed, HEADS)
    wanted = layout.queries(torch.tensor([[2], [0]]), torch.tensor([[True], [False]]))
    assert [group.length for group in wanted.groups] == [1, 0]
    found, _ = view.narrowed(wanted).attend(query[wanted.index], packed, HEADS)
    torch.testing.assert_close(found, all_of_them[2:3])


def test_each_row_has_its_own_prefix():
    seg = torch.tensor([[1, 2, 2], [1, 1, 2]])
    found = attended(View(MASKS["causal_with_prefix"], padded_layout(seg)))
    assert found == ["100000", "110000", "111000", "000110", "000110", "000111"]


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_wanted_queries_attend_as_they_do_among_all(rule, kernel, monkeypatch):
    monkeypatch.setattr(module, "usable", lambda _: kernel)
    torch.manual_seed(1)
    seg = (torch.arange(13) < torch.tensor([13, 5, 5, 7])[:, None]).long()
    seg[0, 4:] = 2
    positions, valid = torch.tensor([[11, 3, 0], [4, 0, 0], [0, 2, 4], [6, 1, 0]]), torch.ones(4, 3, dtype=torch.bool)
    starts = torch.where(torch.arange(13) < 3, 0, 3).expand(4, -1)
    bias = torch.randn(1, 3, 13, 13)
    for make in LAYOUTS.values():
        for layout in (make(seg), make(seg, starts)):
            for residual, extra in ((False, {}), (True, {}), (False, {"bias": bias}), (True, {"bias": bias})):
                view = View(RULES[rule], layout, **extra)
                query, packed = torch.randn(len(layout.positions()), 21), torch.randn(len(layout.positions()), 42)
                _, scores = view.attend(query.flip(0), packed, HEADS, residual=residual)
                whole, _ = view.attend(query, packed, HEADS, residual=residual, scores=scores)
                wanted = layout.queries(positions, valid)
                narrow = view.narrowed(wanted)
                some, _ = narrow.attend(narrow.select(query), packed, HEADS, residual=residual, scores=scores)
                torch.testing.assert_close(some, whole[wanted.index])


def one_by_one(query, key, value, queries, keys, longest, rule, scale, drop):
    """`flash_attention` by a loop over the sequences. As the kernel it computes nothing behind the longest sequence,
    and zeros where there are no keys."""
    output, repeated = torch.full_like(query, torch.nan), query.shape[1] // key.shape[1]
    for (begin, end), (first, last) in zip(pairwise(queries.tolist()), pairwise(keys.tolist())):
        end, last = min(end, begin + longest), min(last, first + longest)
        if first == last:
            output[begin:end] = 0.0
            continue
        part = [value[first:last].repeat_interleave(repeated, 1).transpose(0, 1) for value in (key, value)]
        scores = query[begin:end].transpose(0, 1) @ part[0].transpose(1, 2) * scale
        distance = torch.arange(last - first)[None] - torch.arange(end - begin)[:, None]
        if rule.causal:
            scores = scores.masked_fill(distance > 0, -torch.inf)
        if rule.window:
            scores = scores.masked_fill(distance.abs() > rule.window // 2, -torch.inf)
        output[begin:end] = (scores.softmax(-1) @ part[1]).transpose(0, 1)
    assert queries[-1] == len(query) and keys[-1] == len(key)
    return output


@pytest.mark.parametrize("heads", [HEADS, Heads(4, 2, 7, 0.4)])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_packed_rows_attend_as_padded_ones(rule, documents, heads, monkeypatch):
    torch.manual_seed(1)
    seg = (torch.arange(9) < torch.tensor([9, 5, 1, 7])[:, None]).long()
    seg[0, 4:] = 2
    starts = torch.where(torch.arange(9) < 3, 0, 3).expand(4, -1) if documents else None
    positions = torch.tensor([[8, 3], [4, 0], [0, 0], [2, 6]])
    valid = torch.tensor([[1, 1], [0, 1], [1, 0], [1, 1]]) > 0
    rows, width = torch.randn(4, 9, (heads.heads + 2 * heads.kv_heads) * 7), heads.heads * 7
    padded = padded_layout(seg, starts)
    whole, _ = View(RULES[rule], padded).attend(None, padded.gather(rows), heads)
    expected = padded.scatter(whole)
    used = []
    monkeypatch.setattr(module, "flash_attention", lambda *asked: used.append(1) or one_by_one(*asked))
    for kernel in (False, True):
        monkeypatch.setattr(module, "variable_length", lambda tensor, size, kernel=kernel: kernel)
        layout = packed_layout(seg, 35, 20, 9, starts)  # 13 fillers; a row has at most 9 tokens
        view, packed = View(RULES[rule], layout), layout.gather(rows)
        found, _ = view.attend(None, packed, heads)
        assert len(found) == 35 and found.isfinite().all()
        torch.testing.assert_close(layout.scatter(found)[seg > 0], expected[seg > 0])
        queries = layout.queries(positions, valid)
        narrow = view.narrowed(queries)
        some, _ = narrow.attend(narrow.select(packed[:, :width]), packed[:, width:], heads)
        assert len(some) == 20 and some.isfinite().all()
        answers = expected.gather(1, positions[..., None].expand(-1, -1, width))
        torch.testing.assert_close(queries.scatter(some)[valid], answers[valid])
    simple = not RULES[rule].causal and not RULES[rule].window
    assert len(used) == (0 if RULES[rule].prefix else 2 if simple else 1)


@pytest.fixture
def calls(monkeypatch):
    """How torch's attention is called: (mask's shape or None, is_causal) each time."""
    found, real = [], F.scaled_dot_product_attention

    def attention(query, key, value, mask=None, dropout_p=0.0, is_causal=False, **others):
        found.append((None if mask is None else tuple(mask.shape), is_causal))
        return real(query, key, value, mask, dropout_p, is_causal, **others)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(module, "usable", lambda _: False)  # as on a GPU
    return found


def _attend(view):
    queries = len(view.select(view.layout.positions()[:, None]))
    keys = view.keys.seg.numel() if view.cache is not None else len(view.keys.positions())
    return view.attend(torch.randn(queries, 21), torch.randn(keys, 42), HEADS)


LENGTHS_SEG = (torch.arange(6) < torch.tensor([6, 3, 3])[:, None]).long()


def test_lengths_say_it_all_without_padding(calls):
    _attend(View(MASKS["fully_visible"], exact_layout(LENGTHS_SEG)))
    assert calls == [(None, False), (None, False)]


@pytest.mark.parametrize("make, groups", [(padded_layout, 1), (exact_layout, 2), (unpadded_layout, 1)])
def test_causal_attention_takes_no_mask(make, groups, calls):
    _attend(View(MASKS["causal"], make(LENGTHS_SEG)))
    _attend(View(Rule(causal=True, window=10), make(LENGTHS_SEG)))  # every key is at most 5 away
    assert calls == [(None, True)] * 2 * groups


def test_other_masks_are_as_small_as_they_can_be(calls):
    layout = padded_layout(LENGTHS_SEG)
    _attend(View(MASKS["fully_visible"], layout))
    _attend(View(MASKS["causal_with_prefix"], layout))
    _attend(View(Rule(window=4), exact_layout(LENGTHS_SEG)))
    two = layout.queries(torch.tensor([[5, 1], [2, 0], [2, 1]]), torch.ones(3, 2, dtype=torch.bool))
    _attend(View(MASKS["causal"], layout, wanted=two))  # is_causal would take the queries for the first two positions
    assert calls == [((3, 1, 1, 6), False), ((3, 1, 6, 6), False), ((1, 1, 6, 6), False), (None, False),
                     ((3, 1, 2, 6), False)]


def test_a_cache_takes_a_mask_of_its_padding_only(calls):
    cache, one = Cache(), torch.ones(3, 1, dtype=torch.int64)
    first = View(MASKS["causal"], padded_layout(LENGTHS_SEG), cache=cache)
    packed = first.remember(lambda: torch.randn(18, 42))
    first.attend(torch.randn(18, 21), packed, HEADS)
    second = View(MASKS["causal"], padded_layout(one, first=cache.length), cache=cache)
    packed = second.remember(lambda: torch.randn(3, 42))
    second.attend(torch.randn(3, 21), packed, HEADS)
    assert calls == [(None, True), ((3, 1, 1, 7), False)]
