"""Fine-tuning with adapters: what is trained and saved, that every task can, and that a killed training goes on."""

import json
from pathlib import Path

import pytest
import torch

from tests.finetuning.test_resume import Killed, kill_at
from tests.finetuning.test_tasks import texts
from tests.tools.configs import model_config
from uer.checkpoint.files import load_weights, read, save_weights
from uer.errors import UserError
from uer.finetuning import loop
from uer.finetuning.command import finetune, parse_command, parse_with
from uer.finetuning.config import CrossValidationConfig, GridConfig
from uer.finetuning.folds import cross_validate
from uer.finetuning.grid import run_grid
from uer.finetuning.infer import infer
from uer.finetuning.resume import TrainingState
from uer.finetuning.tasks.classification import Classification
from uer.finetuning.tasks.ner import Ner
from uer.finetuning.tasks.siamese import Siamese
from uer.layers.lora import is_adapter
from uer.model import build_model

from tests.finetuning.conftest import CONFIG  # isort: skip

TARGETS = [f"encoder.transformer.0.self_attn.linear_layers.{number}" for number in (0, 2)]


@pytest.fixture
def base(tiny):
    """The path of a pretrained model."""
    torch.manual_seed(3)
    save_weights(build_model(model_config(**CONFIG), 27).state_dict(), tiny.path("base.bin"))
    return tiny.path("base.bin")


def train(tiny, base, name: str = "out", task=Classification, **changes) -> dict:
    flags = {"pretrained_model_path": base, "use_lora": True, "output_model_path": tiny.path(f"{name}/model.bin"),
             "dropout": 0.1, "learning_rate": 0.02, **changes}
    finetune("test", task, tiny.flags(**flags))
    return json.loads(Path(tiny.path(f"{name}/model.json")).read_text("utf-8"))["training"]


def logits(tiny, name: str) -> list[list[float]]:
    infer("test", Classification, ["--load_model_path", tiny.path(f"{name}/model.bin"), "--test_path",
                                   tiny.path("dev.tsv"), "--prediction_path", tiny.path("out.txt"), "--device", "cpu",
                                   "--output_logits"])
    lines = Path(tiny.path("out.txt")).read_text("utf-8").splitlines()[1:]
    return [[float(value) for value in line.split("\t")[1].split()] for line in lines]


def test_only_adapters_and_head_are_trained_and_both_ways_of_saving_predict_the_same(tiny, base, capsys):
    flags = {"train_path": tiny.path("many.tsv"), "epochs_num": 8, "learning_rate": 0.003, "dropout": 0.0,
             "lora_target": ["self_attn", "feed_forward"]}
    dev = train(tiny, base, "merged", log_level="INFO", **flags)["dev"]
    said = next(line for line in capsys.readouterr().out.splitlines() if "LoRA:" in line)
    assert "6 adapted layers" in said and " instead of " in said
    assert dev["accuracy"] > 0.8  # of two labels
    train(tiny, base, "adapter", lora_save="adapter", **flags)
    before, after = load_weights(base), load_weights(tiny.path("merged/model.bin"))
    changed = {name for name in after if name in before and not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.weight" for name in (
        *(f"encoder.transformer.0.self_attn.linear_layers.{n}" for n in range(3)),
        "encoder.transformer.0.self_attn.final_linear", "encoder.transformer.0.feed_forward.linear_1",
        "encoder.transformer.0.feed_forward.linear_2")}
    assert not any(map(is_adapter, after))
    kept = load_weights(tiny.path("adapter/model.bin"))
    assert {name for name in kept if not is_adapter(name)} == {name for name in after if name not in before}
    torch.testing.assert_close(logits(tiny, "merged"), logits(tiny, "adapter"), rtol=0, atol=1e-5)
    Path(base).rename(tiny.path("moved.bin"))
    with pytest.raises(UserError, match=r"adapters \(LoRA\) of .*base.bin, which is not there"):
        logits(tiny, "adapter")
    save_weights({name: value + 1 for name, value in before.items()}, base)
    with pytest.raises(UserError, match="which has changed since"):
        logits(tiny, "adapter")


@pytest.mark.parametrize("owner, name, call", [(TrainingState, "save", 1), (loop, "predict", 2)])
def test_a_killed_training_goes_on_and_its_state_is_small(tiny, base, monkeypatch, owner, name, call):
    train(tiny, base, "whole", test_path=tiny.path("test.tsv"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, owner, name, call)
        train(tiny, base, "cut", test_path=tiny.path("test.tsv"))
    state = Path(tiny.path("cut/model.bin.state"))
    if state.exists():
        running = read(state)["running"]
        assert {name for name in running["model"] if is_adapter(name)} == {
            f"{layer}.lora_{which}" for layer in TARGETS for which in "AB"}
        assert not any(name.startswith("embedding.") or name.endswith("linear_layers.0.weight")
                       for name in (*running["model"], *running["optimizer"]))
    train(tiny, base, "cut", test_path=tiny.path("test.tsv"))
    for end in (".bin", ".json"):
        assert Path(tiny.path(f"whole/model{end}")).read_bytes() == Path(tiny.path(f"cut/model{end}")).read_bytes()


def test_adapters_and_further_parameters_start_and_train_as_asked(tiny, base):
    train(tiny, base, "first", lora_save="adapter", lora_train=["layer_norm_1"], epochs_num=1)
    first = load_weights(tiny.path("first/model.bin"))
    assert "encoder.transformer.0.layer_norm_1.gamma" in first
    flags = {"lora_pretrained_model_path": tiny.path("first/model.bin"), "lora_train": ["layer_norm_1"]}
    train(tiny, base, "second", lora_save="adapter", epochs_num=1, learning_rate=1e-12, **flags)
    for name, value in load_weights(tiny.path("second/model.bin")).items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=1e-6)
    for changes, message in (({"lora_r": 4}, r"is \[8, 16\] in the file and \[4, 16\] here"),
                             ({"lora_target": ["linear_layers.0"]}, "it adapts .*linear_layers.2 too"),
                             ({"lora_target": ["all-linear"]}, "is missing in the file"),
                             ({"lora_pretrained_model_path": base}, "it holds no adapters")):
        with pytest.raises(UserError, match=message):
            train(tiny, base, "third", **{**flags, **changes})


def test_what_cannot_be_is_said_in_one_line(tiny, base):
    for flags, message in (({"pretrained_model_path": None}, "--use_lora needs --pretrained_model_path"),
                           ({"use_adv": True}, "--use_adv moves the word embedding"),
                           ({"lora_target": ["linear_9"]}, "--lora_target linear_9: no linear layer"),
                           ({"lora_train": ["norm_9"]}, "--lora_train norm_9: no parameter"),
                           ({"use_lora": None, "lora_r": 4}, "need --use_lora"),
                           ({"lora_r": 0}, "--lora_r must lie between 1 and")):
        with pytest.raises(UserError, match=message):
            train(tiny, base, **flags)


def test_two_ranks_equal_one_to_rounding(tiny, base):
    for name, ranks in (("one", {}), ("two", {"world_size": 2, "gpu_ranks": (0, 1)})):
        train(tiny, base, name, epochs_num=1, dropout=0.0, lora_dropout=0.0, **ranks)
    for name, value in load_weights(tiny.path("one/model.bin")).items():
        torch.testing.assert_close(load_weights(tiny.path("two/model.bin"))[name], value, rtol=1e-3, atol=2e-4)


def test_grid_folds_and_other_tasks(tiny, base):
    lora = {"pretrained_model_path": base, "use_lora": True}
    command, (config,) = parse_with("test", Classification, (GridConfig,), tiny.flags(
        **lora, batch_size_list=[32], learning_rate_list=[0.01], epochs_num_list=[1], parallel_trials=1))
    (record,) = run_grid(command, config)
    assert record["score"] is not None and run_grid(command, config, run=False) == [record]
    other, _ = parse_with("test", Classification, (GridConfig,), tiny.flags(
        **lora, lora_r=2, batch_size_list=[32], learning_rate_list=[0.01], epochs_num_list=[1]))
    assert run_grid(other, config, run=False) == []
    cross_validate("test", tiny.flags(**lora, dev_path=None, folds_num=2, epochs_num=1))
    assert CrossValidationConfig.folds_num
    tagged = tiny.write("ner.tsv", "label\ttext_a\n" + "".join(
        " ".join("O" * len(row)) + "\t" + " ".join(row) + "\n" for row in texts(16)))
    pairs = tiny.write("pairs.tsv", "label\ttext_a\ttext_b\n" + "".join(
        f"{number % 2}\t{row}\t{row}\n" for number, row in enumerate(texts(16))))
    for task, path in ((Ner, tagged), (Siamese, pairs)):
        train(tiny, base, task.name, task, train_path=path, dev_path=path, epochs_num=1)
        assert parse_command("test", task, tiny.flags(**lora)).lora.use_lora
