"""What every entry of TARGETS must do. A new entry needs labels in LABELS below, and all of it runs."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import uer.backbone
import uer.target_inputs
from tests.tools.configs import model_config
from uer.data.batch import IGNORED, Batch, Labels, Packing, Side
from uer.data.packing import measured
from uer.layers import layout
from uer.model import Model, build_model
from uer.targets import TARGETS
from uer.targets.base import VocabularyTarget

# Unlike sizes, so that a swapped axis fails: 5 rows of 13 positions, hidden states of 32, 37 entries.
ROWS, LENGTH, HIDDEN, ENTRIES = 5, 13, 32, 37
LENGTHS = torch.tensor([13, 4, 9, 1, 7])
SEG = (torch.arange(LENGTH) < LENGTHS[:, None]).long()


def at_positions(generator) -> Labels:
    """Three a row, fewer where a row is short."""
    positions = torch.randint(0, LENGTH, (ROWS, 3), generator=generator) % LENGTHS[:, None]
    values = torch.randint(0, ENTRIES, (ROWS, 3), generator=generator)
    return Labels(torch.where(torch.arange(3) < (LENGTHS[:, None] + 2) // 3, values, IGNORED), positions)


def at_every_position(generator, width: int | None = None) -> Labels:
    shape = (ROWS, LENGTH) if width is None else (ROWS, LENGTH, width)
    values = torch.randint(0, ENTRIES, shape, generator=generator)
    return Labels(torch.where(SEG.view(ROWS, LENGTH, *[1] * (len(shape) - 2)) > 0, values, IGNORED))


def one_a_row(generator) -> Labels:
    values = torch.randint(0, 2, (ROWS, 1), generator=generator)
    values[2] = IGNORED
    return Labels(values, torch.zeros(ROWS, 1, dtype=torch.int64))


# Each target's name -> the labels that its processors make, and settings of its model.
LABELS = {
    "mlm": (at_positions, {"tie_weights": True}),
    "sp": (one_a_row, {}),
    "lm": (at_every_position, {"tie_weights": True, "has_lmtarget_bias": True, "mask": "causal"}),
    "bilm": (lambda generator: at_every_position(generator, 2), {"encoder": "bilstm"}),
    "cls": (one_a_row, {"labels_num": 3}),
}
PAIRS = [("mlm", "sp"), ("sp", "mlm"), ("lm", "sp"), ("mlm", "lm"), ("cls", "mlm")]


def batch_for(*targets: str) -> Batch:
    generator = torch.Generator().manual_seed(4)
    src = torch.randint(5, ENTRIES, (ROWS, LENGTH), generator=generator)
    return Batch(Side(src * SEG, SEG), {name: LABELS[name][0](generator) for name in targets}, torch.arange(ROWS))


def model_for(*targets: str, unpad: str = "auto") -> Model:
    settings = {"emb_size": HIDDEN, "hidden_size": HIDDEN, "feedforward_size": 19, "heads_num": 4, "layers_num": 2,
                "dropout": 0.0, "max_seq_length": LENGTH, "target": targets}
    for name in targets:
        settings |= LABELS[name][1]
    torch.manual_seed(3)
    model = build_model(model_config(**settings), ENTRIES, unpad=unpad)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_every_entry_has_a_case():
    assert LABELS.keys() == TARGETS.keys(), "a new entry of TARGETS needs labels in LABELS"


@pytest.mark.parametrize("name", LABELS)
def test_loss_and_accuracy_are_those_of_the_logits(name):
    """Plain cross-entropy of every wanted position, one after another."""
    model, batch = model_for(name), batch_for(name)
    output, labels = model(batch), batch.labels[name]
    hidden = model.encode(batch.src.values, batch.src.seg)
    positions = labels.positions if labels.positions is not None else torch.arange(LENGTH).expand(ROWS, -1)
    totals, correct, count = {}, {}, 0
    for row, column in labels.wanted().nonzero().tolist():
        state, wanted = hidden[row, positions[row, column]], labels.values[row, column].view(-1)
        asked = ([(part.suffix, torch.nn.functional.linear(part.features, part.weight, part.bias)) for part in
                  model.target[name].projections(state)] if isinstance(model.target[name], VocabularyTarget)
                 else [("", model.target[name].logits(state))])
        for (suffix, logits), label in zip(asked, wanted):
            totals[suffix] = totals.get(suffix, 0.0) - logits.log_softmax(-1)[label]
            correct[suffix] = correct.get(suffix, 0) + int(logits.argmax() == label)
        count += 1
    assert count == batch.counts()[name] == model.counts(batch).item()
    assert output.loss.item() == pytest.approx(sum(totals.values()).item() / count, rel=1e-5)
    for suffix, total in totals.items():
        loss, accuracy = output.metrics[name]["loss" + suffix], output.metrics[name]["acc" + suffix]
        assert loss.total.item() == pytest.approx(total.item(), rel=1e-5) and loss.count == accuracy.count == count
        assert accuracy.total == correct[suffix]


@pytest.mark.parametrize("targets", [(name,) for name in LABELS if name != "bilm"] + PAIRS)
def test_padding_changes_nothing(targets):
    batch = batch_for(*targets)
    losses, gradients = [], []
    for unpad, part in (("on", batch), ("off", batch), ("on", batch.trimmed())):
        model = model_for(*targets, unpad=unpad)
        loss = model(part).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    for name, gradient in gradients[0].items():
        assert gradient is not None, f"no gradient reaches {name}"
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("targets", [(name,) for name in LABELS] + PAIRS)
def test_static_shapes_change_nothing(targets, monkeypatch):
    """On a GPU no shape may depend on a value: every position that is asked for is computed, and labels are ignored
    instead of left out."""
    batch, model = batch_for(*targets), model_for(*targets, unpad="off")
    expected = model(batch)
    for module in (layout, uer.backbone, uer.target_inputs):
        monkeypatch.setattr(module, "static_shapes", lambda tensor: True)
    inputs = model.target_inputs(batch)
    for name in targets:
        labels = batch.labels[name]
        assert len(inputs[name].labels) == ROWS * (LENGTH if labels.positions is None else labels.positions.shape[1])
    found = model(batch)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    for name, metrics in expected.metrics.items():
        for metric, (total, count) in metrics.items():
            assert found.metrics[name][metric].total.item() == pytest.approx(total.item(), rel=1e-5, abs=1e-6)
            assert found.metrics[name][metric].count == count


@pytest.mark.parametrize("targets", [(name,) for name in LABELS if name != "bilm"] + PAIRS)
@pytest.mark.parametrize("static", [False, True])
def test_packed_rows_change_nothing(targets, static, monkeypatch):
    """Rows laid end to end in a fixed number of tokens, with a fixed number of predictions."""
    batch, model = batch_for(*targets), model_for(*targets, unpad="off")
    expected = model(batch)
    expected.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    for module in (layout, uer.backbone, uer.target_inputs):
        monkeypatch.setattr(module, "static_shapes", lambda tensor: static)
    tokens, predictions, sequences = measured(batch, ROWS, None)[0].tolist()
    found = model(replace(batch, packing=Packing(tokens + 3, predictions + 2, sequences)))
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    for name, metrics in expected.metrics.items():
        assert found.metrics[name]["acc"] == metrics["acc"] or name == "bilm"
    found.loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("targets", PAIRS)
def test_other_targets_do_not_change_the_order_of_packed_inputs(targets, monkeypatch):
    """A teacher of mlm alone teaches a student of mlm and sp, prediction by prediction."""
    batch, model = batch_for(*targets), model_for(*targets, unpad="off")
    for module in (layout, uer.backbone, uer.target_inputs):
        monkeypatch.setattr(module, "static_shapes", lambda tensor: True)
    tokens, predictions, sequences = measured(batch, ROWS, None)[0].tolist()
    batch = replace(batch, packing=Packing(tokens + 3, predictions + 2, sequences))
    together, heads = model.target_inputs(batch), model.target
    for name in targets:
        model.target = torch.nn.ModuleDict({name: heads[name]})
        hidden, labels = model.target_inputs(batch)[name]
        numbers = (labels != IGNORED).nonzero()[:, 0]
        assert torch.equal((together[name].labels != IGNORED).nonzero()[:, 0], numbers)
        assert torch.equal(together[name].labels[numbers], labels[numbers])
        torch.testing.assert_close(together[name].hidden[numbers], hidden[numbers])


@pytest.mark.parametrize("targets", PAIRS)
def test_targets_together_are_the_sum_of_each_alone(targets):
    """One pass of the encoder for all of them; each loss is divided by its own number of predictions."""
    batch, together = batch_for(*targets), model_for(*targets)
    output, alone = together(batch), 0.0
    for name in targets:
        single = model_for(*targets)
        single.target = torch.nn.ModuleDict({name: single.target[name]})
        part = single(batch)
        alone += part.loss.item()
        for metric, (total, count) in part.metrics[name].items():
            assert output.metrics[name][metric].total.item() == pytest.approx(total.item(), rel=1e-5), metric
            assert output.metrics[name][metric].count == count
    assert output.loss.item() == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("name", LABELS)
def test_micro_batches_add_up(name):
    """The loss is divided by the predictions of the whole batch, not by a micro-batch's."""
    model, batch = model_for(name), batch_for(name)
    counts = model.counts(batch)
    parts = [model(batch.rows(start, stop), counts).loss.item() for start, stop in ((0, 2), (2, 5))]
    assert sum(parts) == pytest.approx(model(batch).loss.item(), rel=1e-5)


@pytest.mark.parametrize("name", LABELS)
def test_filler_rows_count_for_nothing(name):
    model, batch = model_for(name).eval(), batch_for(name)
    filling = torch.tensor([False, False, True, True, True])
    with torch.no_grad():
        expected, emptied = model(batch.rows(0, 2)), model(batch.without(filling))
        nothing = model(batch.without(torch.ones(ROWS, dtype=torch.bool)))
    assert emptied.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert all(pair.count == 0 and pair.total == 0 for pair in nothing.metrics[name].values()) and nothing.loss == 0


@pytest.mark.parametrize("name", LABELS)
def test_a_teacher_of_ones_own_kind(name):
    """A student that is its teacher has nothing to learn from it: the gradient is that of the labels, by 1 - alpha."""
    if not issubclass(TARGETS[name], VocabularyTarget):
        assert model_for(name).soft_targets(batch_for(name), 1.0, 0.5) == {}
        return
    batch, teacher = batch_for(name), model_for(name)
    with torch.no_grad():
        soft = teacher.soft_targets(batch, 2.0, 0.75)
    gradients = []
    for lesson in (None, soft):
        model = model_for(name)
        output = model(batch, soft=lesson)
        output.loss.backward()
        gradients.append((output, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])))
    (plain, expected), (taught, found) = gradients
    assert taught.loss.item() == pytest.approx(plain.loss.item(), rel=1e-6)
    torch.testing.assert_close(found, 0.25 * expected, rtol=1e-3, atol=1e-6)
    shares = [pair for metric, pair in taught.metrics[name].items() if metric.startswith("distillation loss")]
    assert shares and all(abs(pair.total.item()) < 1e-4 for pair in shares)


@pytest.mark.parametrize("name", LABELS)
def test_tied_weights_are_one(name):
    model = model_for(name)
    if not LABELS[name][1].get("tie_weights"):
        assert not model.tied
        return
    (copy, home), = model.tied.items()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    assert parameters[copy] is parameters[home]
    state = {key: value for key, value in model.state_dict().items() if key != copy}
    model.load_state_dict(state)  # a checkpoint may leave the copy out


class Doubled(nn.Module):
    """A wrapper, as adapters are."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 2 * self.layer(hidden)


class DoubledWeight(nn.Module):
    """A parametrisation."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


@pytest.mark.parametrize("name", LABELS)
def test_linear_layers_that_are_changed_count_or_are_refused(name):
    """A wrapped or parametrised layer of a head is never silently ignored."""
    batch = batch_for(name)
    for path, layer in model_for(name).target[name].named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        plain, wrapped, parametrised = (model_for(name).eval() for _ in range(3))
        owner, _, attribute = path.rpartition(".")
        setattr(wrapped.target[name].get_submodule(owner), attribute, Doubled(layer))
        parametrize.register_parametrization(parametrised.target[name].get_submodule(path), "weight", DoubledWeight())
        with torch.no_grad():
            expected = plain(batch).loss
            assert (parametrised(batch).loss - expected).abs() > 1e-4, path
            try:
                assert (wrapped(batch).loss - expected).abs() > 1e-4, path
            except TypeError as error:
                assert "Doubled: an output layer over the vocabulary must be a plain linear layer" in str(error)
