"""`--architecture modern`: sizes, costs, commands and recipe file of ModernBERTs; BERT's stay as they were."""

import dataclasses
import json

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from uer import cli
from uer.config import MaskingConfig, ModelConfig, OptimConfig, TrainConfig
from uer.convert.architectures import ARCHITECTURES as CONVERSIONS
from uer.errors import UserError
from uer.family.architectures import ARCHITECTURES
from uer.family.commands import FamilyFolder
from uer.family.config import FamilyConfig, MachineConfig, RecipeConfig
from uer.family.costs import cost_of
from uer.family.devices import named_devices
from uer.family.plan import make_plan
from uer.family.recipe import RECIPES, build_recipe, check_recipe_file, settings_of
from uer.family.scaling import Batch, _keys, step_time
from uer.family.sizes import Size, check_architecture, resolve
from uer.model_settings import model_settings
from uer.planning.flops import parameter_count

VOCAB = 21128
H100 = named_devices("h100", 8)
RECIPE = RECIPES["modernbert"]


@pytest.fixture(scope="module")
def sizes(root):
    found = resolve(("2/128", "8/512", "12/768"), root / ARCHITECTURES["modern"].folder, model_settings)
    return {size.name: size for size in found}


def test_parameters_are_those_of_transformers(sizes):
    for size in sizes.values():
        with torch.device("meta"):
            theirs = ModernBertForMaskedLM(ModernBertConfig(
                **CONVERSIONS["modernbert"].config_json(size.config, VOCAB, "mlm")))
        assert parameter_count(size.config, VOCAB) == theirs.num_parameters()


def layers_by_hand(hidden, wide, keys):
    """Of a token in a layer: its matrix products, of which the gated feed-forward has three, and its attention."""
    return 3 * (2 * (4 * hidden**2 + 3 * hidden * wide) + 4 * keys * hidden)


@pytest.mark.parametrize("stage", [0, 1])
def test_operations_count_local_attention_and_gates(sizes, stage):
    """8 layers: 1, 4 and 7 attend to all tokens, the others to blocks of 64 beside their own. Of the last layer
    keys and values are computed for all tokens, the rest for the 30% that are predicted, with a mask and no blocks."""
    size, length = sizes["L-8_H-512"], (1024, 8192)[stage]
    cost = cost_of(size, RECIPE, VOCAB, H100, MachineConfig())
    tokens = RECIPE.stages[stage].tokens
    inner = 3 * layers_by_hand(512, 1376, length) + 4 * layers_by_hand(512, 1376, 3 * 64)
    last = 3 * 2 * 2 * 512**2 + 0.3 * 3 * (2 * (2 * 512**2 + 3 * 512 * 1376) + 4 * length * 512)
    output = 0.3 * 3 * 2 * (512**2 + 512 * VOCAB)
    assert cost.flops[stage] / tokens == pytest.approx(inner + last + output, rel=0.001)


def test_more_predictions_cost_more(sizes):
    few, size = dataclasses.replace(RECIPE, mask_rate=0.15), sizes["L-2_H-128"]
    half, whole = (cost_of(size, recipe, VOCAB, H100, MachineConfig()) for recipe in (few, RECIPE))
    assert whole.flops[0] > 1.3 * half.flops[0] and whole.hours > half.hours
    assert whole.memory_bytes > half.memory_bytes


def test_a_step_takes_less_time_with_local_attention(sizes):
    """The estimate of attention's operations, which run slower than other products, knows the windows too."""
    config = sizes["L-8_H-512"].config
    assert _keys(config, 1024) == 3 * 1024 + 5 * 3 * 64
    assert _keys(dataclasses.replace(config, attention_window=0, local_rotary_base=None), 1024) == 8 * 1024
    whole = dataclasses.replace(config, attention_window=0, global_attention_every=0, local_rotary_base=None)
    narrow, wide = (step_time(Size("x", "x", each), VOCAB, Batch(8, 1, 8192), 1, H100) for each in (config, whole))
    assert narrow.compute < 0.7 * wide.compute


def test_attention_inside_of_documents_costs_less(sizes):
    """In rows of 8,192 tokens each attends to the 400 of its document, unless attention is not kept inside of them."""
    size, machine = sizes["L-2_H-128"], MachineConfig(document_length=400)
    whole, inside = (cost_of(size, RECIPE, VOCAB, H100, config) for config in (MachineConfig(), machine))
    # layer 1 and of layer 2, the last one, the 30% that are predicted, of 400 keys instead of 8,192
    saved = 1.3 * 3 * 4 * (8192 - 400) * 128 * RECIPE.stages[1].tokens
    assert whole.flops[1] - inside.flops[1] == pytest.approx(saved, rel=0.01) and inside.hours < whole.hours
    rows = dataclasses.replace(RECIPE, document_attention=False)
    assert cost_of(size, rows, VOCAB, H100, machine).flops == whole.flops
    assert "inside of documents of 400 tokens" in ARCHITECTURES["modern"].lines(size.config, 400.0)[1]


def test_the_plan_says_the_architecture(sizes):
    tiny, one = [sizes["L-2_H-128"]], named_devices("h100", 1)
    plan = make_plan(tiny, RECIPE, VOCAB, one, MachineConfig())
    text = "\n".join([*ARCHITECTURES["modern"].lines(sizes["L-8_H-512"].config), *plan.lines()])
    assert text.startswith("architecture: ModernBERT; every third layer attends to whole rows, the others to a window "
                           "of 128 tokens\n")
    assert "recipe modernbert: trapezoidal schedule" in text and "30% of the tokens predicted" in text
    assert "of 512 x 1024 tokens" in text and "of 64 x 8192 tokens" in text
    bert = make_plan(tiny, RECIPES["uer"], VOCAB, one, MachineConfig())
    assert ARCHITECTURES["bert"].lines(ModelConfig()) == [] and "predicted" not in "\n".join(bert.lines())


def modern_folder(tmp_path, root, recipe=RECIPE):
    config = FamilyConfig(corpus_path=("c.txt",), output_dir=str(tmp_path), architecture="modern")
    return FamilyFolder(root, config, MachineConfig(), recipe, "cpu", 1)


def test_commands_train_and_convert_a_modernbert(sizes, tmp_path, root):
    folder, size = modern_folder(tmp_path, root), sizes["L-8_H-512"]
    datasets, commands = folder.preprocess_commands(), folder.model_commands(size)
    for command, length in zip(datasets, ("1024", "8192"), strict=True):
        assert command.argv[command.argv.index("--seq_length") + 1] == length and "--full_sentences" in command.argv
    for number, command in enumerate(commands[:2]):
        _, optim, masking, train = parsed(command)
        assert (optim.scheduler, optim.warmup, optim.lr_decay) == ("trapezoidal", 0.02, 0.2)
        assert masking.mask_rate == 0.3 and not masking.whole_word_masking and train.document_attention
        assert (train.batch_size, train.accumulation_steps) == ((8, 64), (1, 64))[number]
        assert train.output_bias_init == ("frequencies", "zeros")[number]  # later stages begin with weights
        assert train.config_path.endswith("models/modernbert/L-8_H-512_config.json")
    assert commands[-1].program == "convert_modernbert_from_uer_to_huggingface.py"
    assert folder.model_folder(size).name == "chinese_modernbert_L-8_H-512"


def parsed(command):
    """What pretrain.py would read of a command: model, optimizer, masking, training."""
    known = (ModelConfig, OptimConfig, MaskingConfig, TrainConfig)
    names = {field.name for section in known for field in dataclasses.fields(section)}
    words, keep = [], False
    for word in command.argv[2:]:
        keep = word.removeprefix("--") in names if word.startswith("--") else keep
        words += [word] * keep
    return cli.parse("", known, words)


def test_a_name_that_is_given_is_taken(tmp_path):
    modern = FamilyConfig(architecture="modern")
    assert (FamilyConfig().prefix, modern.prefix) == ("chinese_roberta", "chinese_modernbert")
    assert dataclasses.replace(modern, name_prefix="mine").prefix == "mine"
    assert any("--name_prefix" in line for line in FamilyConfig(name_prefix="").problems())


def test_stages_can_be_shorter(tmp_path, root):
    recipe = build_recipe(RecipeConfig(seq_length=(64, 256), total_steps=(5, 6)), "modernbert")
    assert [(stage.seq_length, stage.total_steps) for stage in recipe.stages] == [(64, 5), (256, 6)]
    assert build_recipe(RecipeConfig(recipe="uer"), "modernbert") == RECIPES["uer"] == build_recipe(RecipeConfig())


def test_a_size_of_another_architecture_is_refused_before_it_is_trained(sizes):
    check_architecture(list(sizes.values()), "modern")
    with pytest.raises(UserError, match=r"--architecture bert: .*L-2_H-128_config.json is no BERT"):
        check_architecture(list(sizes.values()), "bert")
    with pytest.raises(UserError, match=r"--architecture modern: x.json is no ModernBERT \(prediction_head bert\)"):
        check_architecture([Size("x", "x.json", ModelConfig())], "modern")


BEFORE = {
    "name": "uer", "stages": [{"seq_length": 128, "total_steps": 1000000, "rows": 512, "learning_rate": 0.0001},
                              {"seq_length": 512, "total_steps": 250000, "rows": 128, "learning_rate": 5e-05}],
    "scheduler": "linear", "warmup": 0.1, "lr_decay": 0.5, "dropout": 0.1, "max_grad_norm": 0.0,
    "whole_word_masking": False, "full_sentences": False, "document_attention": False, "seed": 7}
"""`settings_of` of the published recipe before there were architectures."""


def test_a_folder_of_an_earlier_version_is_continued(tmp_path):
    path = tmp_path / "family.json"
    path.write_text(json.dumps(BEFORE), encoding="utf-8")
    check_recipe_file(path, settings_of(RECIPES["uer"]))
    assert json.loads(json.dumps(settings_of(RECIPES["uer"]))) == BEFORE, "a new folder's file is as it was"
    with pytest.raises(UserError, match='architecture was "bert" and is now "modern"'):
        check_recipe_file(path, settings_of(RECIPES["uer"], architecture="modern"))
    own = tmp_path / "modern.json"
    for _ in range(2):
        check_recipe_file(own, settings_of(RECIPE, architecture="modern"))
    with pytest.raises(UserError, match='architecture was "modern" and is now "bert"'):
        check_recipe_file(own, settings_of(RECIPE))
