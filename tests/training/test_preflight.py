"""What goes wrong is said in one line with status 2, in seconds, before any step; so is a disk that fills up later."""

import json
import os
import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from uer.checkpoint import files as checkpoint
from uer.checkpoint.state import BackgroundWriter, StateFolder, check_settings, read_state
from uer.config import LoraConfig
from uer.errors import UserError
from uer.runtime.lock import OutputLock
from uer.training import preflight, run


@pytest.mark.parametrize("flags, message", [
    ({"dataset_path": "absent.pt"}, "absent.pt: No such file"),
    ({"max_seq_length": 8}, "max_seq_length is 8"),
    ({"output_model_path": "/dev/null/m"}, "/dev/null cannot be written to: File exists"),
    ({"pretrained_model_path": "absent.bin"}, "absent.bin: No such file"),
    ({"total_steps": 0}, "--total_steps must be at least 1"),
    ({"data_processor": "nsp"}, "is unknown"),
    ({"data_processor": "bert"}, "made with --data_processor mlm, not bert"),
    ({"target": ("mlm", "sp")}, "--data_processor mlm has labels for mlm, none for sp"),
    ({"world_size": 2}, "--gpu_ranks 0 1"),
    ({"device": "cuda"}, "torch sees no GPU"),
    ({"dataset_device": "cuda"}, "this run has no GPU"),
    ({"dev_fraction": 0.999}, "--dev_fraction"),
    ({"metrics_path": "/dev/null/m.jsonl"}, "--metrics_path /dev/null/m.jsonl: /dev/null cannot be written to"),
    ({"scheduler": "tri_stage", "warmup": 0.9}, "--warmup and --lr_decay"),
    ({"sharding": "fsdp", "optimizer": "adafactor"}, "--sharding fsdp works with --optimizer adamw"),
    ({"sharding": "fsdp", "cpu_offload": True}, "no GPU to relieve"),
    ({"mask": "sideways"}, "sideways")], ids=lambda value: value if isinstance(value, str) else None)
def test_one_line_and_status_2(playground, flags, message):
    if torch.cuda.is_available() and "GPU" in message:
        pytest.skip("there is a GPU")
    assert message in playground.fail("m", **flags)


def test_datasets_that_do_not_fit(playground):
    other = playground.write_dataset("other.pt", vocab_changes={"fingerprint": "0" * 64})
    assert "made with another vocabulary" in playground.fail("m", dataset_path=other)
    playground.write_dataset("other.pt", processor="nsp")
    assert "made with --data_processor nsp, not mlm" in playground.fail("m", dataset_path=other)
    assert "'nsp' is unknown" in playground.fail("m", dataset_path=other, data_processor=None)
    playground.write_dataset("other.pt", vocab_changes={"tokenizer": {"kind": "bert", "do_lower_case": "true"}})
    assert "tokenizer setting" in playground.fail("m", dataset_path=other)
    other.write_bytes((playground.folder / "data.pt").read_bytes()[:-50])
    assert "truncated" in playground.fail("m", dataset_path=other)
    playground.write_dataset("other.pt", rows=0)
    assert "other.pt" in playground.fail("m", dataset_path=other)


def test_the_dataset_s_processor_is_taken_where_none_is_given(playground):
    playground.run("told", data_processor=None, total_steps=2)
    job = playground.run("told", data_processor="mlm", total_steps=2)
    assert "finished already" in job.output  # the same run


def test_checkpoints_that_do_not_load(playground):
    bad = playground.folder / "bad.bin"
    bad.write_bytes(b"PK\x03\x04 nonsense")
    assert "bad.bin: not a checkpoint" in playground.fail("m", pretrained_model_path=bad)
    torch.save({"foreign": torch.ones(2)}, bad)
    for flags in ({"world_size": 2, "gpu_ranks": (0, 1)}, {"dry_run": True}):
        assert "none of its 1 tensors fits" in playground.fail("m", pretrained_model_path=bad, **flags)


def test_a_pretrained_model_names_every_key(playground):
    playground.run("first", total_steps=2)
    weights = playground.weights("first-2")
    del weights["encoder.transformer.1.layer_norm_1.gamma"]
    weights["left.over"] = torch.ones(3)
    weights["target.mlm.linear_1.bias"] = torch.ones(5)
    checkpoint.save_weights(weights, playground.folder / "edited.bin")
    for flags in ({}, {"dry_run": True}):
        output = playground.run("second", pretrained_model_path=playground.folder / "edited.bin", total_steps=2,
                                **flags).output
        assert "missing, keeps its initial values: encoder.transformer.1.layer_norm_1.gamma" in output
        assert "left over, not used: left.over" in output
        assert "target.mlm.linear_1.bias: [5] in the file, [16] here" in output
    weights = playground.weights("first-2")
    checkpoint.save_weights({name.replace("word.embedding", "word_embedding"): tensor
                             for name, tensor in weights.items()}, playground.folder / "old.bin")
    output = playground.run("third", pretrained_model_path=playground.folder / "old.bin", total_steps=2).output
    assert "every key fits" in output and "names of before July 2023 were translated into today's (1)" in output


def test_stage_two_goes_on_from_stage_one(playground):
    playground.run("one")
    playground.run("two", total_steps=3, learning_rate=1e-12, pretrained_model_path=playground.folder / "one-12")
    one, two = (playground.weights(name) for name in ("one-12", "two-3"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-9)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(playground):
    (playground.folder / "locked").mkdir(mode=0o500)
    assert "cannot be written to" in playground.fail("m", output_model_path=playground.folder / "locked" / "m")


@pytest.mark.parametrize("ranks", [{}, {"world_size": 2, "gpu_ranks": (0, 1)}], ids=["1 rank", "2 ranks"])
def test_a_disk_that_fills_up_while_training(playground, ranks):
    line = playground.fail("m", file_limit=30000, report_steps=1000, **ranks)
    assert "m-6: File too large" in line
    assert not list(playground.folder.glob("m-*")) and not list(playground.folder.glob("*.tmp"))


def test_too_little_room_for_the_checkpoints(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    needed = preflight.checkpoint_bytes(10100, 10100, saves=100, keep=2)
    assert needed == 40400 * (100 + 9)
    for saves, present, states in ((5, 2, 1), (5, 1, 2), (1, 2, 1), (1, 0, 1), (5, 4, 0)):
        assert preflight.checkpoint_bytes(1, 100, saves, keep=2, present=present) == 4 * saves + 1200 * states
    with pytest.raises(UserError, match=r"--output_model_path .* need 4\.4 MB and .* has 1\.0 MB free"):
        preflight.check_output(str(tmp_path / "m"), needed)
    preflight.check_output(str(tmp_path / "m"), 10**5)


@pytest.mark.parametrize(("step", "total", "every"), [(0, 30, 10), (5, 25, 10), (10, 30, 10), (29, 30, 7), (3, 4, 9)])
def test_the_checkpoints_to_come_are_counted(step, total, every):
    steps = [done for done in range(step + 1, total + 1) if done % every == 0 or done == total]
    assert preflight.saves_left(step, total, every) == len(steps)


@pytest.mark.parametrize(("save", "saved"), [("adapter", 10), ("merged", 1000)])
def test_frozen_parameters_are_in_no_training_state(save, saved, monkeypatch, tmp_path):
    model = nn.Linear(100, 10)
    model.weight.requires_grad_(False)
    monkeypatch.setattr(run, "parameter_count", lambda *_: 1000)
    config = SimpleNamespace(total_steps=100, save_checkpoint_steps=10, keep_checkpoints=2)
    settings = SimpleNamespace(model=None, lora=LoraConfig(use_lora=True, lora_save=save))
    ours = SimpleNamespace(config=config, settings=settings, saves_merged=save == "merged",
                           folder=StateFolder(tmp_path / "m", 2),
                           data=SimpleNamespace(vocab_size=0, tgt_vocab_size=0))
    for step in (40, 50):
        (tmp_path / f"m.state-{step}").touch()
    assert run.Run._checkpoint_bytes(ours, model, 0) == 4 * saved * 10 + 12 * 10 * 3
    # A run that goes on removes its older states: of its three at once, two are there.
    assert run.Run._checkpoint_bytes(ours, model, 50) == 4 * saved * 5 + 12 * 10 * 1


def test_the_writer_keeps_one_in_flight_and_tells_errors_later():
    writer, order = BackgroundWriter(), []
    writer.submit(lambda: order.append(1))
    writer.submit(lambda: order.append(2))
    writer.wait()
    assert order == [1, 2]

    def fail():
        raise OSError(28, "No space left on device", "m-10")

    writer.submit(fail)
    with pytest.raises(OSError, match="No space"):
        writer.wait()
    writer.wait()


def test_states_are_found_and_tidied(tmp_path):
    folder = StateFolder(tmp_path / "m.bin", keep=2)
    for name in ("m.bin.state-5", "m.bin.state-40", "m.bin.state-9", "m.bin.state-x", "m.bin.state-²", "other.state-7",
                 "m.bin.state-50.0a1b2c3d.tmp", "m.bin-50.0a1b2c3d.tmp", "m.bin-50.tmp",
                 "m.bin-50.settings.json.0a1b2c3d.tmp"):
        (tmp_path / name).write_text("")
    assert folder.steps() == [40, 9, 5]
    folder.tidy()
    assert [path.name for path in tmp_path.glob("*.tmp")] == ["m.bin-50.tmp"]  # not a name that this program gives
    folder.prune(40)
    assert folder.steps() == [40, 9]
    (tmp_path / "m.bin.state-7").write_text("")  # of a run that went on from step 5, once more
    folder.prune(7)
    assert folder.steps() == [40, 9, 7]
    assert folder.set_aside() == [40, 9, 7] and folder.steps() == []
    assert StateFolder(tmp_path / "absent" / "m.bin", 2).steps() == []


def test_states_that_are_folders_are_set_aside_more_than_once(tmp_path):
    folder = StateFolder(tmp_path / "m.bin", keep=2)
    for content in ("first", "second"):
        folder.state_path(5).mkdir()
        (folder.state_path(5) / content).write_text("")
        assert folder.set_aside() == [5] and folder.steps() == []
    assert [path.name for path in (tmp_path / "m.bin.state-5.old").iterdir()] == ["second"]


def test_a_state_of_another_kind_or_version(tmp_path):
    with pytest.raises(UserError, match=r"not a training state: no run\.pt in this folder"):
        read_state(tmp_path)
    torch.save({"a": torch.ones(2)}, tmp_path / "s")
    with pytest.raises(UserError, match="not a training state"):
        read_state(tmp_path / "s")
    torch.save({"settings": "{}", "model": {}, "format_version": 99}, tmp_path / "s")
    with pytest.raises(UserError, match="format version 99"):
        read_state(tmp_path / "s")


def test_contradictions_name_their_fields(tmp_path):
    check_settings(json.dumps({"a": [1], "b": None}), {"a": (1,), "b": None}, tmp_path)
    with pytest.raises(UserError, match=r"a was 1 and is now 2; b was null and is now \"x\""):
        check_settings(json.dumps({"a": 1, "b": None}), {"a": 2, "b": "x"}, tmp_path)


def test_one_run_at_a_time_writes_under_a_path(tmp_path):
    lock = OutputLock(tmp_path / "m")
    with pytest.raises(UserError, match="another run is writing there"):
        OutputLock(tmp_path / "m", patience=0.2)
    OutputLock(tmp_path / "n").release()
    lock.release()
    OutputLock(tmp_path / "m", patience=0.2).release()
    assert list(tmp_path.iterdir()) == []
