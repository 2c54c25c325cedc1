"""What every entry of ENCODERS must do. A new entry needs settings in SETTINGS below; all tests then run it."""

from functools import partial

import pytest
import torch
from torch import nn

from tests.tools import layouts
from tests.tools.closeness import relative_error
from tests.tools.configs import model_config
from uer.backbone import Backbone
from uer.encoders import ENCODERS, Encoder
from uer.errors import UserError
from uer.layers.layout import packed_layout, padded_layout

# Unlike sizes, so that a swapped axis fails: 13 positions, 7 rows, hidden states of 32 features.
LENGTHS = (13, 5, 1, 9, 5, 2, 13)
BASE = {"emb_size": 37, "hidden_size": 32, "feedforward_size": 19, "heads_num": 4, "layers_num": 3, "dropout": 0.0,
        "max_seq_length": 13}
FACTORIZED = {"encoder": "transformer", "embedding": ["word"], "factorized_embedding_parameterization": True}
LSTM = {"encoder": "lstm", "embedding": ["word"]}
# Each encoder's name -> the cases that are run: what differs from BASE.
SETTINGS: dict[str, list[dict]] = {
    "transformer": [{"emb_size": 32}, {"factorized_embedding_parameterization": True, "parameter_sharing": True},
                    {"emb_size": 32, "mask": "causal", "layernorm_positioning": "pre"},
                    {"emb_size": 32, "mask": "causal_with_prefix", "relative_position_embedding": True},
                    {"emb_size": 32, "has_residual_attention": True}],
    "rnn": [{}, {"bidirectional": True}],
    "lstm": [{}, {"bidirectional": True}, {"layers_num": 1, "dropout": 0.1}],
    "gru": [{}, {"bidirectional": True}],
    "birnn": [{}],
    "bilstm": [{}],
    "bigru": [{}],
    "gatedcnn": [{"kernel_size": 4, "block_size": 2}, {"kernel_size": 1, "block_size": 1}],
    "dual": [{"embedding": ["dual"], "stream_0": FACTORIZED, "stream_1": {**FACTORIZED, "layers_num": 1}},
             {"embedding": ["dual"], "stream_0": LSTM, "stream_1": LSTM, "tie_weights": True}],
}
CASES = [pytest.param(name, case, id=f"{name} {number}") for name, cases in SETTINGS.items()
         for number, case in enumerate(cases)]

SEG = (torch.arange(13)[None] < torch.tensor(LENGTHS)[:, None]).long()
SEG[0, 6:] = 2
REAL = SEG > 0
# 48 tokens are real.
LAYOUTS = {**layouts.LAYOUTS, "packed": partial(packed_layout, tokens=55, predictions=17, sequences=9)}
POSITIONS = torch.tensor([[12, 0], [1, 4], [0, 0], [8, 2], [0, 3], [1, 1], [11, 12]])


def build(name: str, case: dict) -> Encoder:
    """In evaluation mode, with weights far from their start, so that every term weighs."""
    torch.manual_seed(2)
    config = model_config(**{**BASE, **case, "encoder": name})
    encoder = ENCODERS[name](config).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    encoder.emb_size = config.emb_size
    return encoder


def rows_of(encoder: Encoder) -> torch.Tensor:
    return torch.randn(7, 13, encoder.emb_size, generator=torch.Generator().manual_seed(3))


def encode(encoder: Encoder, rows: torch.Tensor, seg: torch.Tensor, make=padded_layout) -> torch.Tensor:
    """(B, S, E) -> (B, S, H)"""
    layout = make(seg)
    return layout.scatter(encoder(layout.gather(rows), layout))


def test_every_entry_has_settings_here():
    missing = set(ENCODERS) - set(SETTINGS)
    assert not missing, f"uer.encoders.ENCODERS has {sorted(missing)}: give SETTINGS of {__file__} cases of them"
    assert set(SETTINGS) == set(ENCODERS)


@pytest.mark.parametrize("name, case", CASES)
def test_padding_need_not_be_computed(name, case):
    encoder = build(name, case)
    rows = rows_of(encoder)
    padded = encode(encoder, rows, SEG)
    assert padded.shape == (7, 13, 32)
    if encoder.reads_padding:
        for make in ("unpadded", "packed"):
            with pytest.raises(AssertionError, match="padding is read"):
                encode(encoder, rows, SEG, LAYOUTS[make])
        return
    for make in LAYOUTS.values():
        torch.testing.assert_close(encode(encoder, rows, SEG, make)[REAL], padded[REAL], rtol=1e-4, atol=1e-5)
    other = torch.where(REAL[..., None], rows, rows + 1)
    torch.testing.assert_close(encode(encoder, other, SEG)[REAL], padded[REAL], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encode(encoder, rows[3:4, :9], SEG[3:4, :9])[0], padded[3, :9], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, case", CASES)
def test_a_row_does_not_depend_on_the_others(name, case):
    encoder = build(name, case)
    rows = rows_of(encoder)
    whole = encode(encoder, rows, SEG)
    for row in range(7):
        alone = encode(encoder, rows[row:row + 1], SEG[row:row + 1])[0]
        torch.testing.assert_close(alone[REAL[row]], whole[row, REAL[row]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, case", CASES)
def test_wanted_states_are_a_selection_of_all(name, case):
    encoder = build(name, case)
    for make in (padded_layout,) if encoder.reads_padding else LAYOUTS.values():
        layout = make(SEG)
        embedded = layout.gather(rows_of(encoder))
        queries = layout.queries(POSITIONS, torch.ones_like(POSITIONS, dtype=torch.bool))
        found = encoder(embedded, layout, queries)
        torch.testing.assert_close(found, encoder(embedded, layout)[queries.index], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, case", CASES)
def test_padding_that_is_computed_has_no_gradient(name, case):
    """Parameters and real tokens have the same gradients in every layout; without dropout."""
    encoder = build(name, {**case, "dropout": 0.0})
    if encoder.reads_padding:
        pytest.skip("padding is read")
    weights, found = torch.randn(7, 13, 32), []
    for make in LAYOUTS.values():
        rows = rows_of(encoder).requires_grad_()
        encoder.zero_grad()
        (encode(encoder, rows, SEG, make)[REAL] * weights[REAL]).sum().backward()
        assert not rows.grad[~REAL].any()
        found.append([rows.grad, *(parameter.grad for parameter in encoder.stream(0).parameters())])
    largest = max(float(gradient.abs().max()) for gradient in found[0])
    for gradients in found[1:]:
        for ours, theirs in zip(gradients, found[0]):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * largest)


@pytest.mark.parametrize("name, case", CASES)
def test_gradients_reach_every_parameter(name, case):
    encoder = build(name, case)
    rows = rows_of(encoder).requires_grad_()
    for stream in range(encoder.streams):
        hidden = encode(encoder.train().stream(stream), rows, SEG)[REAL]
        (hidden * torch.randn_like(hidden)).sum().backward()
    without = [parameter for parameter, value in encoder.named_parameters()
               if value.grad is None or not value.grad.isfinite().all() or not value.grad.any()]
    assert not without
    assert rows.grad[REAL].abs().amax(-1).min() > 0


@pytest.mark.parametrize("name, case", CASES)
def test_autocast_to_bfloat16_rounds_states_and_gradients(name, case):
    """By a few percent with weights so far from their start. CPUs without such products emulate them."""
    found = []
    for enabled in (False, True):
        encoder = build(name, {**case, "dropout": 0.0})
        rows = rows_of(encoder).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled):
            hidden = encode(encoder, rows, SEG)[REAL]
        (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(5))).sum().backward()
        gradients = [rows.grad, *(parameter.grad for parameter in encoder.stream(0).parameters())]
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        found.append((hidden, rows.grad, torch.cat([gradient.flatten() for gradient in gradients[1:]])))
    assert all(0 < relative_error(rough, exact) < 0.1 for exact, rough in zip(*found))


@pytest.mark.parametrize("name, case", CASES)
def test_an_encoder_computes_what_its_first_stream_does(name, case):
    encoder = build(name, case)
    rows = rows_of(encoder)
    assert torch.equal(encode(encoder.stream(0), rows, SEG)[REAL], encode(encoder, rows, SEG)[REAL])
    same = {id(encoder.stream(number)) for number in range(encoder.streams)}
    assert len(same) == (1 if case.get("tie_weights") else encoder.streams)


@pytest.mark.parametrize("name, case", CASES)
def test_recomputed_activations_change_nothing_or_are_refused(name, case):
    encoder = build(name, case).train()
    encoder.checkpoint_activations("off")
    expected = encode(encoder, rows_of(encoder), SEG)
    try:
        encoder.checkpoint_activations("full")
    except UserError as error:
        assert "--activation_checkpointing" in str(error)
    else:
        assert torch.equal(encode(encoder, rows_of(encoder), SEG), expected) or case.get("dropout")


@pytest.mark.parametrize("name, case", CASES)
def test_documents_of_a_row_are_kept_apart_or_the_encoder_says_no(name, case):
    encoder = build(name, case)
    if not encoder.keeps_documents_apart:
        config = model_config(**{**BASE, "embedding": ["word"], **case, "encoder": name})
        with pytest.raises(UserError, match=f"--document_attention: the encoder '{name}'|encodes pairs of texts"):
            Backbone(config, 37, document_start=2)
        return
    rows, seg = rows_of(encoder)[:1], torch.ones(1, 13, dtype=torch.int64)
    starts = torch.where(torch.arange(13) < 4, 0, 4)[None]
    layout = padded_layout(seg, starts)
    together = layout.scatter(encoder(layout.gather(rows), layout))
    layout = packed_layout(seg, 16, 5, 4, starts)
    torch.testing.assert_close(layout.scatter(encoder(layout.gather(rows), layout)), together, rtol=1e-4, atol=1e-5)
    for part in (slice(0, 4), slice(4, 13)):
        torch.testing.assert_close(together[:, part], encode(encoder, rows[:, part], seg[:, part]), rtol=1e-4,
                                   atol=1e-5)


@pytest.mark.parametrize("name, case", CASES)
def test_weights_start_as_berts(name, case):
    """Weights N(0, 0.02), biases 0, norms 1 and 0."""
    config = model_config(**{**BASE, **case, "encoder": name})
    torch.manual_seed(1)
    for key, parameter in ENCODERS[name](config).named_parameters():
        last = key.rsplit(".", 1)[-1]
        if last == "gamma":
            assert (parameter == 1).all(), key
        elif last == "beta" or parameter.dim() == 1 or "conv_b" in key or "gate_b" in key:
            assert (parameter == 0).all(), key
        else:
            assert abs(parameter.mean().item()) < 5 * 0.02 / parameter.numel() ** 0.5, key
            assert abs(parameter.std().item() / 0.02 - 1) < 5 / (2 * parameter.numel()) ** 0.5, key
