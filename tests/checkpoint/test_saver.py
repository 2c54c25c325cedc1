"""Copies that a save makes: consistent, and never two at once."""

import time

import pytest
import torch
from torch import nn

from uer.checkpoint import files as checkpoint
from uer.checkpoint.saver import Saver
from uer.checkpoint.state import StateFolder, read_state
from uer.config import ParallelConfig
from uer.errors import UserError
from uer.optim import AdamW
from uer.runtime.parallel import World
from uer.runtime.precision import Precision


@pytest.fixture
def saver(tmp_path) -> Saver:
    torch.manual_seed(3)
    model, device = nn.Linear(256, 256), torch.device("cpu")  # the weight is larger than SMALL_BYTES
    optimizer = AdamW(model.parameters(), lr=0.1)
    model(torch.randn(5, 256)).sum().backward()
    optimizer.step()
    return Saver(StateFolder(tmp_path / "m", 2), model, optimizer, Precision("fp32", device),
                 World(0, 1, device, ParallelConfig()), "{}", lambda line: None)


def test_a_save_holds_the_values_of_its_moment(saver, monkeypatch):
    expected = {name: value.clone() for name, value in saver.model.state_dict().items()}
    moments = {name: value.clone() for name, value in saver.optimizer.state[saver.model.weight].items()}
    write = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *arguments: time.sleep(0.05) or write(*arguments))
    saver.save(1, {}, with_weights=True)
    saver.optimizer.step()  # while the thread waits
    assert not torch.equal(saver.model.weight, expected["weight"])
    saver.finish()
    state = read_state(saver.folder.state_path(1))
    for found in (state["model"], checkpoint.load_weights(saver.folder.weights_path(1))):
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(torch.equal(state["optimizer"]["weight"][name], value) for name, value in moments.items())


def test_the_copy_before_is_gone_when_the_next_is_made(saver, monkeypatch):
    events = []
    write, to_host = checkpoint.write, checkpoint.to_host

    def slow_write(*arguments):
        time.sleep(0.02)
        write(*arguments)
        events.append("written")

    monkeypatch.setattr(checkpoint, "write", slow_write)
    monkeypatch.setattr(checkpoint, "to_host", lambda tensors: events.append("copied") or to_host(tensors))
    for step in (1, 2):
        saver.save(step, {}, with_weights=True)
    saver.finish()
    assert events == 2 * ["copied", "written", "written"]


EDITS = {
    "model.weight has another shape": lambda state: state["model"].update(weight=torch.zeros(3, 3)),
    "model.weight is missing": lambda state: state["model"].pop("weight"),
    "model.bias has another shape or type": lambda state: state["model"].update(bias=torch.zeros(256).long()),
    "optimizer.weight.exp_avg has another": lambda state: state["optimizer"]["weight"].update(exp_avg=torch.zeros(3)),
    "optimizer.bias.exp_avg_sq is missing": lambda state: state["optimizer"]["bias"].pop("exp_avg_sq"),
    "'step' is wrong or missing": lambda state: state.pop("step"),
    "entry 'step' is wrong": lambda state: state.update(step=-1),
    "'optimizer' is wrong or missing": lambda state: state.pop("optimizer"),
    "'random' is wrong or missing": lambda state: state.update(random=7)}


@pytest.mark.parametrize("message", EDITS)
def test_a_state_that_does_not_fit_is_refused(saver, message):
    saver.save(1, {}, with_weights=False)
    saver.finish()
    path = saver.folder.state_path(1)
    state = checkpoint.read(path)
    EDITS[message](state)
    checkpoint.write(state, path)
    before = {name: value.clone() for name, value in saver.model.state_dict().items()}
    with pytest.raises(UserError, match=rf"m\.state-1: .*{message}"):
        saver.restore(read_state(path))
    assert all(torch.equal(value, before[name]) for name, value in saver.model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("rows", [0, 3, 5000])
def test_copies_are_contiguous_and_their_own(rows, dtype):
    tensor = torch.arange(13 * rows).view(13, rows).t().to(dtype)
    copied = checkpoint.to_host({"a": tensor, "b": [tensor, torch.tensor(7)]})
    assert copied["a"] is copied["b"][0] or not rows
    assert copied["a"].is_contiguous() and copied["a"].dtype == dtype and torch.equal(copied["a"], tensor)
    expected = tensor.clone()
    tensor.zero_()
    assert torch.equal(copied["a"], expected) and copied["b"][1] == 7
