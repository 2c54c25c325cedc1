"""Weights on disk: whole, deterministic, and never code."""

import os
import pickle

import pytest
import torch
from torch import nn

from uer.checkpoint import files as checkpoint
from uer.errors import UserError


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    tied = torch.randn(13, 7)
    return {"word.weight": tied, "output.weight": tied, "output.bias": torch.randn(13)}


def test_round_trip_keeps_tied_tensors_once(tmp_path, weights):
    path = tmp_path / "model.bin-10"
    checkpoint.save_weights(weights, path)
    loaded = checkpoint.load_weights(path)
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert loaded["word.weight"].data_ptr() == loaded["output.weight"].data_ptr()
    assert [file.name for file in tmp_path.iterdir()] == ["model.bin-10"]


def test_same_weights_give_the_same_bytes(tmp_path, weights):
    checkpoint.save_weights(weights, tmp_path / "a")
    checkpoint.save_weights(checkpoint.load_weights(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path, weights, monkeypatch):
    path = tmp_path / "model.bin"
    checkpoint.save_weights(weights, path)
    before = path.read_bytes()

    def fail(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_weights(weights, path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


class _Hostile:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


@pytest.mark.parametrize("kind", ["torch", "pickle", "nested"])
def test_hostile_files_run_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.bin"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(_Hostile()))
    else:
        torch.save({"a": torch.ones(2), "b": _Hostile()} if kind == "nested" else _Hostile(), path)
    with pytest.raises(UserError, match=r"evil\.bin"):
        checkpoint.load_weights(path)
    assert not (tmp_path / "hacked").exists()


def test_flipped_bits_never_load_as_other_weights(tmp_path, weights):
    path = tmp_path / "model.bin"
    checkpoint.save_weights(weights, path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            loaded = checkpoint.load_weights(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert set(loaded) == set(weights)
            assert all(torch.equal(loaded[name], weights[name]) for name in weights), place


def test_truncated_files_are_refused(tmp_path, weights):
    path = tmp_path / "model.bin"
    checkpoint.save_weights(weights, path)
    whole = path.read_bytes()
    for length in (0, 1, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"model\.bin: not a checkpoint.*: (it ends too early|torch.save wrote no)"):
            checkpoint.load_weights(path)


@pytest.mark.parametrize("content", [[torch.ones(2)], {}, {"a": 3}, {1: torch.ones(2)}])
def test_other_content_is_not_a_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(UserError, match="not a checkpoint"):
        checkpoint.load_weights(tmp_path / "x.bin")


def test_a_training_state_is_called_by_its_name(tmp_path):
    torch.save({"model": {}, "optimizer": {}, "step": 3}, tmp_path / "m.state-3")
    with pytest.raises(UserError, match="a training state, not a checkpoint; the checkpoint's name ends with -3"):
        checkpoint.load_weights(tmp_path / "m.state-3")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        checkpoint.load_weights(tmp_path / "absent.bin")
    with pytest.raises(UserError, match="is a folder"):
        checkpoint.load_weights(tmp_path)


def test_load_into_names_every_key_that_does_not_fit():
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    state = {"0.weight": torch.ones(5, 7), "1.weight": torch.ones(4, 5), "1.bias": torch.ones(3)}
    state["2.bias"] = torch.ones(3)
    report = checkpoint.load_into(model, state, "x.bin")
    assert report.missing == ["0.bias"]
    assert report.left_over == ["2.bias"]
    assert report.other_shape == [("1.weight", (4, 5), (3, 5))]
    assert len(report.lines()) == 3
    assert torch.equal(model[0].weight, torch.ones(5, 7))
    assert torch.equal(model[1].bias, torch.ones(3))


def test_a_tied_name_is_not_missing():
    model = nn.ModuleDict({"word": nn.Embedding(11, 5), "output": nn.Linear(5, 11)})
    model["output"].weight = model["word"].weight
    state = {"word.weight": torch.ones(11, 5), "output.bias": torch.ones(11)}
    assert checkpoint.load_into(model, state, "x.bin").lines() == []


def test_nothing_in_common_is_an_error():
    with pytest.raises(UserError, match=r"other\.bin: none of its 1 tensors"):
        checkpoint.load_into(nn.Linear(2, 2), {"foreign": torch.ones(2)}, "other.bin")


def test_a_safetensors_file_is_called_by_its_name(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.bin"
    save_file({"a": torch.ones(3)}, path)
    with pytest.raises(UserError, match="a safetensors file, not a checkpoint"):
        checkpoint.load_weights(path)


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("hello", encoding="utf-8")
    with pytest.raises(UserError, match=r"corpus\.txt: not a checkpoint: torch\.save wrote no such file"):
        checkpoint.load_weights(path)
