"""What every entry of DECODERS must do. A new entry needs settings in SETTINGS below; all tests then run it."""

import pytest
import torch
from torch import nn

from tests.tools.configs import model_config
from tests.tools.layouts import LAYOUTS
from uer.decoders import DECODERS, Decoder, DecoderCache
from uer.errors import UserError
from uer.layers.layout import padded_layout

# Unlike sizes, so that a swapped axis fails: rows of up to 9 tokens attend to rows of up to 11, hidden states of 32.
LENGTHS, MEMORY_LENGTHS = (9, 4, 1, 7, 4), (3, 11, 6, 1, 11)
BASE = {"emb_size": 32, "hidden_size": 32, "feedforward_size": 19, "heads_num": 4, "decoder_layers_num": 3,
        "dropout": 0.0, "max_seq_length": 11, "target": ["lm"]}
# Each decoder's name -> the cases that are run: what differs from BASE.
SETTINGS: dict[str, list[dict]] = {
    "transformer": [{}, {"layernorm_positioning": "pre", "feed_forward": "gated", "attention_head_size": 5},
                    {"layernorm_positioning": "pre", "relative_position_embedding": True, "layernorm": "t5",
                     "remove_attention_scale": True, "remove_transformer_bias": True}],
}
CASES = [pytest.param(name, case, id=f"{name} {number}") for name, cases in SETTINGS.items()
         for number, case in enumerate(cases)]

SEG = (torch.arange(9)[None] < torch.tensor(LENGTHS)[:, None]).long()
MEMORY_SEG = (torch.arange(11)[None] < torch.tensor(MEMORY_LENGTHS)[:, None]).long()
REAL, MEMORY_REAL = SEG > 0, MEMORY_SEG > 0
POSITIONS = torch.tensor([[8, 0], [1, 3], [0, 0], [6, 2], [0, 3]])


def build(name: str, case: dict) -> Decoder:
    """In evaluation mode, with weights far from their start, so that every term weighs."""
    torch.manual_seed(2)
    decoder = DECODERS[name](model_config(**{**BASE, **case, "decoder": name})).eval()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return decoder


def rows_of(length: int, rows: int = 5) -> torch.Tensor:
    return torch.randn(rows, length, 32, generator=torch.Generator().manual_seed(length))


def decode(decoder: Decoder, rows, memory, seg=SEG, memory_seg=MEMORY_SEG, make=padded_layout,
           make_memory=padded_layout) -> torch.Tensor:
    """(B, S, E) -> (B, S, H)"""
    layout, memory_layout = make(seg), make_memory(memory_seg)
    return layout.scatter(decoder(layout.gather(rows), layout, memory_layout.gather(memory), memory_layout))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_entry_has_settings_here():
    assert set(SETTINGS) == set(DECODERS), f"give SETTINGS of {__file__} cases of every decoder"


@pytest.mark.parametrize("name, case", CASES)
def test_padding_of_neither_side_weighs(name, case):
    decoder, rows, memory = build(name, case), rows_of(9), rows_of(11)
    padded = decode(decoder, rows, memory)
    assert padded.shape == (5, 9, 32)
    for make, make_memory in zip(LAYOUTS.values(), reversed(LAYOUTS.values())):
        close(decode(decoder, rows, memory, make=make, make_memory=make_memory)[REAL], padded[REAL])
    other = [torch.where(real[..., None], part, part + 1) for real, part in ((REAL, rows), (MEMORY_REAL, memory))]
    close(decode(decoder, *other)[REAL], padded[REAL])


@pytest.mark.parametrize("name, case", CASES)
def test_a_row_does_not_depend_on_the_others(name, case):
    decoder, rows, memory = build(name, case), rows_of(9), rows_of(11)
    whole = decode(decoder, rows, memory)
    for row in range(5):
        alone, width = slice(row, row + 1), MEMORY_LENGTHS[row]
        found = decode(decoder, rows[alone], memory[alone, :width], SEG[alone], MEMORY_SEG[alone, :width])[0]
        close(found[REAL[row]], whole[row, REAL[row]])


@pytest.mark.parametrize("name, case", CASES)
def test_a_token_depends_on_those_before_it_and_on_all_of_the_memory(name, case):
    decoder, rows, memory = build(name, case), rows_of(9), rows_of(11)
    whole = decode(decoder, rows, memory)
    changed = rows.clone()
    changed[:, 3] = rows[:, 4]
    found = decode(decoder, changed, memory)
    close(found[:, :3], whole[:, :3])
    assert ((found - whole)[:, 3:].abs().amax(-1) > 0)[REAL[:, 3:]].all()
    for row, length in enumerate(MEMORY_LENGTHS):
        changed = memory.clone()
        changed[row, length - 1] = -changed[row, length - 1]
        assert ((decode(decoder, rows, changed) - whole)[row, REAL[row]].abs().amax(-1) > 0).all()


@pytest.mark.parametrize("name, case", CASES)
def test_wanted_states_are_a_selection_of_all(name, case):
    decoder = build(name, case)
    for make in LAYOUTS.values():
        layout, memory_layout = make(SEG), make(MEMORY_SEG)
        inputs = layout.gather(rows_of(9)), layout, memory_layout.gather(rows_of(11)), memory_layout
        queries = layout.queries(POSITIONS, torch.ones_like(POSITIONS, dtype=torch.bool))
        close(decoder(*inputs, queries), decoder(*inputs)[queries.index])


@pytest.mark.parametrize("make_memory", ["padded", "unpadded"])
@pytest.mark.parametrize("pieces", [[1] * 9, [5, 1, 2, 1]])
@pytest.mark.parametrize("name, case", CASES)
@torch.no_grad()
def test_steps_with_a_cache_equal_the_whole(name, case, pieces, make_memory):
    """The encoder's output is needed in the first step only. Rows may change places, as beams do."""
    decoder, rows, memory = build(name, case), rows_of(9), rows_of(11)
    seg = torch.ones_like(SEG)
    whole = decode(decoder, rows, memory, seg)
    memory_layout, cache, steps = LAYOUTS[make_memory](MEMORY_SEG), DecoderCache(), []
    states = memory_layout.gather(memory)
    for count in pieces:
        step = slice(cache.length, cache.length + count)
        layout = padded_layout(seg[:, step], first=cache.length)
        found = decoder(layout.gather(rows[:, step]), layout, states, memory_layout, cache=cache)
        steps.append(layout.scatter(found))
        cache.select_rows(torch.arange(5))
        states = None
    close(torch.cat(steps, 1), whole)


@pytest.mark.parametrize("name, case", CASES)
@torch.no_grad()
def test_rows_of_one_source_may_be_chosen_again(name, case):
    """Two beams of one source: the second goes on from the first one's tokens."""
    decoder, rows = build(name, case), rows_of(4, 2)
    memory, ones = rows_of(11, 1).expand(2, -1, -1), torch.ones(2, 4, dtype=torch.int64)
    memory_layout, cache = padded_layout(torch.ones(2, 11, dtype=torch.int64)), DecoderCache()
    first, last = padded_layout(ones[:, :3]), padded_layout(ones[:, 3:], first=3)
    decoder(first.gather(rows[:, :3]), first, memory_layout.gather(memory), memory_layout, cache=cache)
    cache.select_rows(torch.tensor([0, 0]))
    found = decoder(last.gather(rows[:, 3:]), last, None, memory_layout, cache=cache)
    going_on = torch.cat([rows[:1, :3].expand(2, -1, -1), rows[:, 3:]], 1)
    close(found, decode(decoder, going_on, memory, ones, memory_layout.seg)[:, 3])


@pytest.mark.parametrize("name, case", CASES)
def test_gradients_reach_every_parameter_and_no_padding(name, case):
    decoder, rows, memory = build(name, case), rows_of(9).requires_grad_(), rows_of(11).requires_grad_()
    hidden = decode(decoder.train(), rows, memory)[REAL]
    (hidden * torch.randn_like(hidden)).sum().backward()
    without = [parameter for parameter, value in decoder.named_parameters()
               if value.grad is None or not value.grad.isfinite().all() or not value.grad.any()]
    assert not without
    for part, real in ((rows, REAL), (memory, MEMORY_REAL)):
        assert part.grad[real].abs().amax(-1).min() > 0 and not part.grad[~real].any()


@pytest.mark.parametrize("name, case", CASES)
def test_recomputed_activations_change_nothing_or_are_refused(name, case):
    decoder, found = build(name, case).train(), []
    for mode in ("off", "full", "selective"):
        try:
            decoder.checkpoint_activations(mode)
        except UserError as error:
            assert mode != "off" and "--activation_checkpointing" in str(error)
            return
        decoder.zero_grad()
        hidden = decode(decoder, rows_of(9), rows_of(11))[REAL]
        hidden.square().sum().backward()
        found.append([hidden, *(parameter.grad for parameter in decoder.parameters())])
    assert all(torch.equal(first, other) for first, *others in zip(*found) for other in others)


@pytest.mark.parametrize("name, case", CASES)
def test_weights_start_as_berts(name, case):
    """Weights N(0, 0.02), biases 0, norms 1 and 0."""
    torch.manual_seed(1)
    for key, parameter in DECODERS[name](model_config(**{**BASE, **case, "decoder": name})).named_parameters():
        if "layer_norm" in key:
            assert (parameter == (0 if key.endswith("beta") else 1)).all(), key
        elif parameter.dim() == 1:
            assert (parameter == 0).all(), key
        else:
            assert abs(parameter.mean().item()) < 5 * 0.02 / parameter.numel() ** 0.5, key
            assert abs(parameter.std().item() / 0.02 - 1) < 5 / (2 * parameter.numel()) ** 0.5, key
