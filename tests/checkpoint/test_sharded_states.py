"""Training states that are folders: written beside the training, checked, and read without running code."""

import dataclasses
import os
import pickle

import pytest
import torch
import torch.distributed as dist

from tests.test_model import make_batch, make_model
from tests.test_model_with_decoder import make_both_sides, make_pairs
from uer.checkpoint.saver import Saver
from uer.checkpoint.state import StateFolder, read_state, read_weights
from uer.config import ParallelConfig
from uer.encoders import ENCODERS
from uer.errors import UserError
from uer.optim import AdamW
from uer.runtime import sharded_state
from uer.runtime.parallel import World
from uer.runtime.precision import Precision
from uer.training.update import StepModule

ALONE = World(0, 1, torch.device("cpu"), ParallelConfig())


@pytest.fixture
def world():
    """The only rank of its process group, which shards what it has."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dataclasses.replace(ALONE, config=ParallelConfig(sharding="fsdp"))
    dist.destroy_process_group()


def make_saver(folder, world, model):
    wrapped, optimizer = world.wrap(StepModule(model)), AdamW(model.parameters(), lr=0.1)
    wrapped(make_batch())[0].backward()
    optimizer.step()
    return Saver(StateFolder(folder / "m", 2), model, optimizer, Precision("fp32", world.device), world, "{}",
                 lambda line: None)


def test_a_folder_holds_the_values_of_its_moment(tmp_path, world):
    saver = make_saver(tmp_path, world, make_model())
    expected = {name: value.full_tensor().clone() for name, value in saver.model.state_dict().items()}
    for step in (1, 2, 3):
        saver.save(step, {"loss": torch.tensor(7.0)}, with_weights=step == 1)
        if step == 1:
            saver.optimizer.step()  # while a thread writes
    saver.finish()
    assert saver.folder.steps() == [3, 2]  # the oldest is removed
    state = read_state(saver.folder.state_path(3))
    assert state["step"] == 3 and state["sums"]["loss"] == 7
    again = Saver(saver.folder, make_model(), saver.optimizer, saver.precision, ALONE, "{}", lambda line: None)
    again.optimizer = AdamW(again.model.parameters(), lr=0.1)
    again.restore(state)
    weights = read_weights(state)
    for name, value in again.model.state_dict().items():
        now = saver.model.state_dict()[name].full_tensor()
        assert torch.equal(value, now) and torch.equal(weights[name], now) and not torch.equal(value, expected[name])
    for ours, theirs in zip(again.model.parameters(), saver.model.parameters()):
        for key, moment in saver.optimizer.state[theirs].items():
            assert torch.equal(again.optimizer.state[ours][key], moment.full_tensor())


def test_a_damaged_folder_is_refused(tmp_path, world):
    saver = make_saver(tmp_path, world, make_model())
    saver.save(1, {}, with_weights=False)
    saver.finish()
    folder = saver.folder.state_path(1)
    file = next(folder.glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="does not match its checksum"):
        read_state(folder)
    file.unlink()
    with pytest.raises(UserError, match="is missing"):
        read_state(folder)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_directory_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / sharded_state.DIRECTORY).write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(UserError, match=r"mkdir does not belong into a directory of tensors"):
        sharded_state.shapes(tmp_path)
    with pytest.raises(UserError, match="does not belong"):
        sharded_state.load_({"a": torch.zeros(1)}, tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if ENCODERS[name].streams == 1] + ["with a decoder"])
def test_every_architecture_is_sharded(world, encoder):
    """The loss and the gradients are those without sharding."""
    def make():
        return make_both_sides() if encoder == "with a decoder" else make_model(encoder=encoder)

    batch = make_pairs() if encoder == "with a decoder" else make_batch()
    whole, model = make(), make()
    expected = whole(batch).loss
    expected.backward()
    loss, _ = world.wrap(StepModule(model))(batch)
    loss.backward()
    assert torch.equal(loss, expected)
    for ours, theirs in zip(model.parameters(), whole.parameters()):
        torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad)
