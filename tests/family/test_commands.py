"""The commands of an output folder, and the card's text."""

import dataclasses
import json

import pytest

from uer import cli
from uer.config import DistillationConfig, ModelConfig, TrainConfig
from uer.errors import UserError
from uer.family import commands
from uer.family.card import card_notes, read_metrics, shown_command
from uer.family.commands import FamilyFolder, check_datasets, check_teacher
from uer.family.config import FamilyConfig, MachineConfig, TeachingConfig
from uer.family.recipe import RECIPES
from uer.family.runner import Job, Runner
from uer.family.scheduling import DeviceGroup
from uer.family.sizes import Size
from uer.family.teaching import build_teaching

SIZE = Size("L-8_H-512", "models/bert/L-8_H-512_config.json", ModelConfig(layers_num=8))


def family(tmp_path, root, recipe="uer", kind="cuda", devices_per_model=8, **machine):
    config = FamilyConfig(corpus_path=("c.txt",), output_dir=str(tmp_path / "out"))
    return FamilyFolder(root, config, MachineConfig(**machine), RECIPES[recipe], kind, devices_per_model)


TINY = Size("L-2_H-128", "models/bert/L-2_H-128_config.json", ModelConfig(layers_num=2))


def taught(tmp_path, root, recipe="uer", **settings):
    """An output folder whose sizes below 8 layers learn from a teacher."""
    teaching = build_teaching(TeachingConfig(**settings), RECIPES[recipe], 100, root / "models" / "bert",
                              lambda path: SIZE.config, must_exist=True)
    return dataclasses.replace(family(tmp_path, root, recipe), vocab_size=100, teaching=teaching)


def flags(command):
    """`--a 1 2 --b` -> {"a": ["1", "2"], "b": []}"""
    found, name = {}, ""
    for word in command.argv[2:]:
        if word.startswith("--"):
            name = word[2:]
            found[name] = []
        else:
            found[name].append(word)
    return found


def test_a_containers_share_of_the_cores_is_what_counts(tmp_path, root, monkeypatch):
    monkeypatch.setattr(commands.os, "cpu_count", lambda: 64)
    for quota, cores in ((3, 3), (1 << 30, 64)):
        monkeypatch.setattr(commands, "quota_of_group", lambda quota=quota: quota)
        assert commands.cores() == cores
        assert flags(family(tmp_path, root).preprocess_commands()[0])["processes_num"] == [str(cores)]


def test_the_published_commands_on_eight_gpus(tmp_path, root):
    folder = family(tmp_path, root)
    datasets = [flags(command) for command in folder.preprocess_commands()]
    assert [dataset["seq_length"] for dataset in datasets] == [["128"], ["512"]]
    assert all("dynamic_masking" in dataset and "full_sentences" not in dataset for dataset in datasets)
    first, second, *_, last = (flags(command) for command in folder.model_commands(SIZE))
    assert (first["total_steps"], first["learning_rate"], first["batch_size"]) == (["1000000"], ["0.0001"], ["64"])
    assert (second["total_steps"], second["learning_rate"], second["batch_size"]) == (["250000"], ["5e-05"], ["16"])
    assert first["world_size"] == ["8"] and first["gpu_ranks"] == list("01234567")
    assert first["accumulation_steps"] == second["accumulation_steps"] == ["1"]
    assert second["pretrained_model_path"] == [f"{tmp_path}/out/L-8_H-512/stage1_seq128.bin-1000000"]
    assert last["input_model_path"] == [f"{tmp_path}/out/L-8_H-512/stage2_seq512.bin-250000"]
    assert last["output_dir"][0].endswith("chinese_roberta_L-8_H-512") and last["layers_num"] == ["8"]


def test_fewer_gpus_accumulate(tmp_path, root):
    first = flags(family(tmp_path, root, devices_per_model=1).model_commands(SIZE)[0])
    assert first["batch_size"] == ["64"] and first["accumulation_steps"] == ["8"] and "world_size" not in first
    alone = flags(family(tmp_path, root, kind="cpu", devices_per_model=1).model_commands(SIZE)[0])
    assert alone["device"] == ["cpu"]


def test_modern_switches_reach_the_commands(tmp_path, root):
    folder = family(tmp_path, root, "modern")
    dataset, first = flags(folder.preprocess_commands()[0]), flags(folder.model_commands(SIZE)[0])
    assert "full_sentences" in dataset and "whole_word_masking" in dataset
    assert first["scheduler"] == ["trapezoidal"] and first["lr_decay"] == ["0.2"]
    assert "document_attention" in first and "whole_word_masking" in first


@pytest.mark.parametrize("visible,expected", [(None, "2,3"), ("4,5,6,7", "6,7")])
def test_a_model_sees_the_gpus_of_its_group_only(tmp_path, root, monkeypatch, visible, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    runner = Runner(family(tmp_path, root, devices_per_model=2), None, print)
    assert runner._environment(Job("a", [], group=DeviceGroup((2, 3))))["CUDA_VISIBLE_DEVICES"] == expected


def test_a_foreign_dataset_is_refused(tmp_path, root):
    folder = family(tmp_path, root)
    check_datasets(folder)
    path = folder.dataset_path(folder.recipe.stages[0])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"seq128\.pt"):
        check_datasets(folder)


def test_metrics_of_a_resumed_run_count_once(tmp_path):
    records = [{"kind": "train", "step": 10, "loss": 5.0}, {"kind": "train", "step": 20, "loss": 4.0},
               {"kind": "eval", "step": 20, "loss": 1.0}, {"kind": "train", "step": 10, "loss": 4.5}]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + '\n{"kind": "tr')
    assert [(record["step"], record["loss"]) for record in read_metrics(path)] == [(10, 4.5), (20, 4.0)]
    assert read_metrics(tmp_path / "missing") == []


def test_a_card_has_no_folders(tmp_path, root):
    argv = ["/usr/bin/python3", f"{root}/pretrain.py", "--x", "/home/me/secret/a b.txt", "models/c"]
    shown = shown_command(argv, root)
    assert shown == "python3 pretrain.py --x 'a b.txt' models/c"
    metrics = [tmp_path / "a", tmp_path / "b"]
    notes = card_notes(RECIPES["uer"], ["/home/me/secret/corpus.txt"], {}, metrics, [], root, "")
    assert "Corpus: `corpus.txt`." in notes and "secret" not in notes and "No report was written." in notes


def test_a_stage_whose_successor_is_there_is_not_done_again(tmp_path, root):
    folder = family(tmp_path, root)
    first, second, *_ = folder.model_commands(SIZE)
    assert not first.done() and not second.done()
    second.prepare()
    folder.weights_path(SIZE, 2).write_text("")  # stage 1's weights were removed to save space
    assert first.done() and second.done()


def test_smaller_sizes_learn_from_the_finished_teacher_in_every_stage(tmp_path, root):
    folder = taught(tmp_path, root, teacher="8/512", soft_alpha=0.25, soft_temperature=2.0)
    for command in folder.model_commands(TINY)[:2]:
        found = flags(command)
        assert found["teacher_model_path"] == [f"{tmp_path}/out/L-8_H-512/stage2_seq512.bin-250000"]
        assert found["teacher_config_path"][0].endswith("L-8_H-512_config.json")
        known = [word for name in DistillationConfig.__dataclass_fields__ for word in (f"--{name}", *found[name])]
        parsed = cli.parse("", (TrainConfig, DistillationConfig), ["--output_model_path", "x", *known])[1]
        assert (parsed.soft_alpha, parsed.soft_temperature) == (0.25, 2.0)
    assert not any("teacher_model_path" in flags(command) for command in folder.model_commands(SIZE))
    notes = card_notes(folder.recipe, ["c.txt"], {}, [], [], root, "", folder.teaching.describe())
    assert "finished larger model with the same vocabulary: L-8_H-512 (soft_alpha 0.25, soft_temperature 2)." in notes


def test_a_teacher_from_elsewhere(tmp_path, root):
    (tmp_path / "mine.bin").write_text("weights")
    folder = taught(tmp_path, root, teacher_model_path=str(tmp_path / "mine.bin"), teacher_config_path="mine.json")
    assert flags(folder.model_commands(TINY)[0])["teacher_model_path"] == [str(tmp_path / "mine.bin")]
    assert folder.teaching.waits_for() == "" and folder.teaching.facts()["teacher"] == {"file": "mine.bin", "bytes": 7}
    assert str(tmp_path) not in folder.teaching.describe()
    with pytest.raises(UserError, match=r"--teacher_model_path absent\.bin: no such file"):
        taught(tmp_path, root, teacher_model_path="absent.bin", teacher_config_path="mine.json")


def test_teachers_that_cannot_be(tmp_path, root):
    with pytest.raises(UserError, match="--teacher all: one size is needed"):
        taught(tmp_path, root, teacher="all")
    short = dataclasses.replace(SIZE.config, max_seq_length=128)
    with pytest.raises(UserError, match="max_seq_length is 128, but there are rows of 512"):
        build_teaching(TeachingConfig(teacher="8/512"), RECIPES["uer"], 100, root / "models" / "bert",
                       lambda path: short, must_exist=True)
    assert TeachingConfig(soft_alpha=0.1).problems() == [
        "--soft_alpha and --soft_temperature need --teacher or --teacher_model_path"]
    assert "exclude one another" in TeachingConfig(teacher="base", teacher_model_path="x").problems()[0]
    assert TeachingConfig(teacher="base", soft_alpha=0.1).problems() == []


def test_a_finished_teacher_without_weights_is_an_error(tmp_path, root):
    folder = taught(tmp_path, root, teacher="8/512")
    check_teacher(folder, [SIZE, TINY])  # it will be trained
    folder.model_folder(SIZE).mkdir(parents=True)
    with pytest.raises(UserError, match="the teacher's weights were removed, and L-2_H-128 needs them"):
        check_teacher(folder, [SIZE, TINY])
    check_teacher(folder, [SIZE])
