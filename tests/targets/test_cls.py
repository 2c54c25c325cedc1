"""The cls target: the row's vector by every --pooling, in every layout."""

from dataclasses import replace

import pytest
import torch

import uer.backbone
import uer.target_inputs
from tests.tools.configs import model_config
from uer.data.batch import IGNORED, Batch, Labels, Packing, Side
from uer.data.packing import measured
from uer.errors import UserError
from uer.layers import layout
from uer.model import build_model

LENGTHS = torch.tensor([13, 4, 9, 1, 7])  # of 5 rows, of 13 positions
REAL = torch.arange(13) < LENGTHS[:, None]
SETTINGS = {"emb_size": 32, "hidden_size": 32, "feedforward_size": 19, "heads_num": 4, "layers_num": 2,
            "dropout": 0.0, "max_seq_length": 13, "embedding": ["word", "pos", "seg"]}


@pytest.fixture
def batch() -> Batch:
    """Rows of one and two segments; the third has no label."""
    draw = torch.Generator().manual_seed(5)
    src = torch.randint(5, 37, (5, 13), generator=draw) * REAL
    seg = REAL.long() * (1 + (torch.arange(13) >= torch.tensor([5, 9, 2, 9, 9])[:, None]))
    label = torch.tensor([[2], [0], [IGNORED], [1], [2]])
    mlm = Labels(torch.randint(5, 37, (5, 1), generator=draw), torch.tensor([[3], [1], [8], [0], [5]]))
    return Batch(Side(src, seg), {"cls": Labels(label, label * 0), "mlm": mlm}, torch.arange(5))


def model_of(pooling: str, *targets: str, **settings):
    torch.manual_seed(2)
    model = build_model(model_config(**SETTINGS, target=targets, pooling=pooling, labels_num=3, **settings), 37)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


VECTORS = {"first": lambda states: states[0], "last": lambda states: states[-1], "mean": lambda states: states.mean(0),
           "max": lambda states: states.max(0).values}


@pytest.mark.parametrize("targets", [("cls",), ("mlm", "cls")])
@pytest.mark.parametrize("pooling", VECTORS)
def test_the_vector_of_a_row_is_of_its_real_tokens(batch, pooling, targets):
    model = model_of(pooling, *targets)
    hidden = model.encode(batch.src.values, batch.src.seg)
    vectors = torch.stack([VECTORS[pooling](states[:length]) for states, length in zip(hidden, LENGTHS)])
    found = model.target_inputs(batch)["cls"]
    expected, order = vectors[LENGTHS.argsort(descending=True)], LENGTHS.argsort(descending=True)
    labels = batch.labels["cls"].values[:, 0]
    if pooling in ("mean", "max"):
        expected, order = vectors, torch.arange(5)
    wanted = labels[order] != IGNORED
    torch.testing.assert_close(found.hidden, expected[wanted])
    assert found.labels.tolist() == labels[order][wanted].tolist()


@pytest.mark.parametrize("targets", [("cls",), ("mlm", "cls")])
@pytest.mark.parametrize("pooling", VECTORS)
def test_layouts_change_nothing(batch, pooling, targets, monkeypatch):
    """Padded, unpadded, trimmed, packed, with static shapes: the same loss and gradients."""
    needs = measured(replace(batch, labels={name: batch.labels[name] for name in targets}), 5, None)[0].tolist()
    packed = replace(batch, packing=Packing(needs[0] + 3, needs[1] + 2, needs[2]))
    results = []
    for part, unpad, static in ((batch, "off", False), (batch, "on", False), (batch.trimmed(), "on", False),
                                (batch, "off", True), (packed, "off", False), (packed, "off", True)):
        model = model_of(pooling, *targets)
        model.unpad = unpad
        with monkeypatch.context() as patch:
            for module in (layout, uer.backbone, uer.target_inputs):
                patch.setattr(module, "static_shapes", lambda tensor, static=static: static)
            output = model(part)
        output.loss.backward()
        results.append((output, {name: parameter.grad for name, parameter in model.named_parameters()}))
    (first, gradients), *others = results
    assert first.metrics["cls"]["acc"].count == 4
    for output, found in others:
        assert output.loss.item() == pytest.approx(first.loss.item(), rel=1e-5)
        assert output.metrics["cls"]["acc"] == first.metrics["cls"]["acc"]
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_without_labels_num_there_is_one_line():
    with pytest.raises(UserError, match="--target cls needs --labels_num"):
        build_model(model_config(**SETTINGS, target=["cls"]), 37)


def test_a_vector_that_sees_nothing_is_warned_of():
    assert "--pooling first" in "".join(model_of("first", "cls", mask="causal").warnings())
    assert not model_of("last", "cls", mask="causal").warnings() and not model_of("first", "cls").warnings()
