import dataclasses

import pytest
import torch

from tests.tools.layouts import LAYOUTS, exact_layout
from uer.layers.layout import Group, merged_lengths, packed_layout, padded_layout, unpadded_layout

SEG = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 2, 2], [0, 0, 0, 0, 0], [1, 2, 0, 0, 0]])
VALUES = torch.arange(20).view(4, 5)


def test_padded_layout_keeps_every_position_in_order():
    layout = padded_layout(SEG)
    assert layout.groups == [Group(0, 4, 5)]
    assert layout.gather(VALUES).tolist() == list(range(20))
    assert layout.positions().tolist() == [0, 1, 2, 3, 4] * 4
    hidden = torch.randn(20, 3)
    assert torch.equal(layout.scatter(hidden), hidden.view(4, 5, 3))


def test_rows_of_one_length_form_a_group_and_padding_is_left_out():
    layout = exact_layout(SEG)
    assert layout.groups == [Group(0, 1, 5), Group(5, 2, 2)]
    assert layout.gather(VALUES).tolist() == [5, 6, 7, 8, 9, 0, 1, 15, 16]
    assert layout.gather(SEG).min() > 0
    assert layout.positions().tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 1]
    assert layout.order.tolist() == [1, 0, 3]


def test_rows_of_nearly_one_length_form_a_group_with_a_little_padding():
    layout = unpadded_layout(SEG)  # lengths 5, 2, 2: 6 positions of padding
    assert (layout.groups, layout.padded) == ([Group(0, 3, 5)], (True,))
    assert layout.gather(VALUES).tolist() == [*range(5, 10), *range(5), *range(15, 20)]
    assert layout.gather(SEG)[5:].tolist() == [1, 1, 0, 0, 0, 1, 2, 0, 0, 0]
    assert layout.positions().tolist() == [0, 1, 2, 3, 4] * 3
    assert layout.order.tolist() == [1, 0, 3]  # the row of nothing but padding is left out all the same
    assert exact_layout(SEG).padded == (False, False)


@pytest.mark.parametrize("limit", [0, 3, 8, 100])
def test_merged_groups_are_as_long_as_their_longest_row_and_have_little_padding(limit):
    assert merged_lengths([13, 13, 12, 9, 5, 5, 1, 0]) == [13, 13, 13, 13, 5, 5, 5]
    generator = torch.Generator().manual_seed(limit)
    lengths = sorted(torch.randint(0, 64, (50,), generator=generator).tolist(), reverse=True)
    computed = merged_lengths(lengths, limit)
    assert computed == sorted(computed, reverse=True) and len(computed) == sum(length > 0 for length in lengths)
    for longest in set(computed):
        rows = [length for length, positions in zip(lengths, computed) if positions == longest]
        assert max(rows) == longest and sum(longest - length for length in rows) <= limit


def test_scatter_undoes_gather_and_leaves_zeros_at_padding():
    layout = exact_layout(SEG)
    back = layout.scatter(layout.gather(VALUES.unsqueeze(-1)).float()).squeeze(-1)
    assert torch.equal(back, VALUES * (SEG > 0))


def test_positions_begin_anew_with_each_document():
    starts = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 2, 2, 4], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]])
    assert padded_layout(SEG, starts).positions().view(4, 5)[1].tolist() == [0, 1, 0, 1, 0]
    assert exact_layout(SEG, starts).positions().tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 0]


def test_positions_go_on_where_the_first_column_is_not_zero():
    assert padded_layout(SEG[:1, :2], first=7).positions().tolist() == [7, 8]


def test_a_layout_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        padded_layout(SEG).starts = SEG


def _answers(layout, positions, valid):
    queries = layout.queries(positions, valid)
    flat = layout.gather(VALUES)
    answers = dict(zip(queries.requests.tolist(), flat[queries.index].tolist()))
    for (_, rows, _), (_, query_rows, _) in zip(layout.groups, queries.groups):
        assert rows == query_rows
    assert sum(rows * length for _, rows, length in queries.groups) == len(queries.index)
    return queries, answers


def test_queries_find_the_wanted_tokens_in_both_layouts():
    positions = torch.tensor([[1, 0, 0], [4, 0, 3], [0, 0, 0], [3, 1, 0]])
    valid = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 0]], dtype=torch.bool)
    wanted = {0: 1, 3: 9, 4: 5, 5: 8, 10: 16}  # request in (4, 3) -> value
    for make in (padded_layout, exact_layout):
        queries, answers = _answers(make(SEG), positions, valid)
        assert {request: answers[request] for request in wanted} == wanted
    assert queries.groups == [Group(0, 1, 3), Group(3, 2, 1)]  # no more queries than a group's fullest row has


def test_scattered_answers_stand_where_they_were_requested():
    positions = torch.tensor([[1, 0], [4, 3], [0, 0], [1, 0]])
    for make in LAYOUTS.values():
        layout = make(SEG)
        queries = layout.queries(positions, torch.ones_like(positions, dtype=torch.bool))
        answers = queries.scatter(layout.gather(VALUES).index_select(0, queries.index)[:, None].float()).squeeze(-1)
        assert answers[[0, 1, 3]].tolist() == [[1, 0], [9, 8], [16, 15]]


def test_nothing_but_padding_is_computed_as_it_stands():
    assert unpadded_layout(SEG[2:3]).groups == [Group(0, 1, 5)]


def test_a_group_without_wanted_tokens_has_no_queries():
    positions, valid = torch.tensor([[0], [2], [0], [0]]), torch.tensor([[False], [True], [False], [False]])
    queries, answers = _answers(exact_layout(SEG), positions, valid)
    assert answers == {1: 7}
    assert queries.groups == [Group(0, 1, 1), Group(1, 2, 0)]


PACKED_SEG = (torch.arange(4) < torch.tensor([4, 2, 2])[:, None]).long()


def test_packed_rows_lie_end_to_end_with_fillers_behind_them():
    assert packed_layout(PACKED_SEG, 13, 5, 3).cu_seqlens.tolist() == [0, 4, 6, 8, 12, 13, 13, 13]
    layout = packed_layout(PACKED_SEG, 10, 5, 4)
    assert layout.index.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 12, 12]
    assert layout.cu_seqlens.tolist() == [0, 4, 6, 8, 10, 10, 10, 10]
    assert layout.gather(torch.arange(12).view(3, 4) + 1, fill=-7).tolist() == [1, 2, 3, 4, 5, 6, 9, 10, -7, -7]
    back = layout.scatter(torch.ones(10, 2))
    assert torch.equal(back, PACKED_SEG[..., None].expand(-1, -1, 2).float())
    starts = torch.tensor([[0, 0, 2, 2], [0, 0, 0, 0], [0, 1, 1, 1]])
    documents = packed_layout(PACKED_SEG, 10, 5, 7, starts)
    assert documents.cu_seqlens.tolist() == [0, 2, 4, 6, 7, 8, 10, 10, 10, 10, 10]
    assert documents.positions().tolist()[:8] == [0, 1, 0, 1, 0, 1, 0, 0]


def test_the_example_of_packed_queries():
    layout = packed_layout(PACKED_SEG, 10, 5, 3)
    positions = torch.tensor([[3, 1], [1, 0], [0, 1]])
    queries = layout.queries(positions, torch.tensor([[1, 1], [1, 0], [1, 0]]) > 0)
    assert queries.index.tolist() == [1, 3, 5, 6, 8] and queries.requests.tolist() == [1, 0, 2, 4, 6]
    assert queries.cu_seqlens.tolist() == [0, 2, 3, 4, 5, 5, 5]
    assert queries.select(torch.arange(6) + 10, fill=-1).tolist() == [11, 10, 12, 14, -1]
    more = packed_layout(PACKED_SEG, 10, 9, 3).queries(positions, positions >= 0)
    assert more.requests.tolist()[:2] == [1, 0] and more.requests.tolist()[6:] == [6, 6, 6] and len(more.index) == 9
