"""Sizes by name, and recipes with their numbers overridden."""

import dataclasses

import pytest

from uer.config import ModelConfig
from uer.errors import UserError
from uer.family.config import RecipeConfig
from uer.family.recipe import RECIPES, Stage, build_recipe, check_recipe_file, corpus_facts, settings_of
from uer.family.sizes import resolve


def read(path):
    layers, hidden = (int(part.split("-")[1]) for part in path.split("/")[-1].removesuffix("_config.json").split("_"))
    return ModelConfig(layers_num=layers, hidden_size=hidden, emb_size=hidden, heads_num=hidden // 64,
                       feedforward_size=4 * hidden)


@pytest.fixture
def folder(root):
    return root / "models" / "bert"


def test_sizes_go_by_many_names(folder):
    sizes = resolve(("tiny", "8/512", "L-8_H-512", "medium", "2/128"), folder, read)
    assert [size.name for size in sizes] == ["L-2_H-128", "L-8_H-512"]
    assert [size.label for size in sizes] == ["tiny 2/128", "medium 8/512"]
    assert resolve(("10/768",), folder, read)[0].label == "10/768"


def test_all_are_24(folder):
    sizes = resolve(("tiny", "all"), folder, read)
    assert len({size.name for size in sizes}) == len(sizes) == 24
    assert all((folder / f"{size.name}_config.json").is_file() for size in sizes)


@pytest.mark.parametrize("name", ["huge", "3/128", "L-2_H-129", "", "0/0"])
def test_an_unknown_size_is_named(folder, name):
    with pytest.raises(UserError, match=f"--sizes: '{name}' is no size.*tiny.*JSON file"):
        resolve((name,), folder, read)


def test_two_files_of_one_name_are_refused(folder):
    with pytest.raises(UserError, match="both be called L-2_H-128"):
        resolve(("tiny", "elsewhere/L-2_H-128_config.json"), folder, read)


def test_the_published_recipe():
    first, second = build_recipe(RecipeConfig()).stages
    assert (first.seq_length, first.total_steps, first.learning_rate, first.split(8)) == (128, 10**6, 1e-4, (64, 1))
    assert (second.seq_length, second.total_steps, second.learning_rate) == (512, 250_000, 5e-5)
    assert second.split(8) == (16, 1)


@pytest.mark.parametrize("devices,expected", [(1, (64, 8)), (2, (64, 4)), (4, (64, 2)), (16, (32, 1)), (512, (1, 1))])
def test_fewer_devices_keep_the_batch(devices, expected):
    stage = Stage(128, 10, 512, 64, 1e-4)
    assert stage.split(devices) == expected
    assert devices * expected[0] * expected[1] == 512


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match="--global_batch_size 512 cannot be divided evenly by 3 devices"):
        Stage(128, 10, 512, 64, 1e-4).split(3)


def test_every_number_can_be_overridden():
    config = RecipeConfig(seq_length=(32, 64), total_steps=(5, 6), global_batch_size=(7, 8), batch_size=(1, 2),
                          learning_rate=(0.1, 0.2), scheduler="constant", warmup=0.5, dropout=0.0, seed=3,
                          max_grad_norm=0.5, whole_word_masking=True)
    recipe = build_recipe(config)
    assert recipe.stages == (Stage(32, 5, 7, 1, 0.1), Stage(64, 6, 8, 2, 0.2))
    assert (recipe.scheduler, recipe.warmup, recipe.dropout, recipe.seed) == ("constant", 0.5, 0.0, 3)
    assert recipe.max_grad_norm == 0.5 and build_recipe(RecipeConfig()).max_grad_norm == 0.0
    assert recipe.whole_word_masking and not recipe.full_sentences


def test_modern_switches_can_be_taken_back_one_by_one():
    recipe = build_recipe(RecipeConfig(recipe="modern", document_attention=False, scheduler="linear"))
    assert recipe.whole_word_masking and recipe.full_sentences and not recipe.document_attention
    assert recipe.stages == RECIPES["modern"].stages


def test_the_number_of_stages_follows_the_lists():
    assert len(build_recipe(RecipeConfig(total_steps=(10,))).stages) == 1
    three = RecipeConfig(seq_length=(8, 16, 32), total_steps=(1, 2, 3), global_batch_size=(1, 1, 1),
                         batch_size=(1, 1, 1), learning_rate=(1.0, 1.0, 1.0))
    assert [stage.seq_length for stage in build_recipe(three).stages] == [8, 16, 32]
    with pytest.raises(UserError, match=r"--seq_length 3, --total_steps 2"):
        build_recipe(dataclasses.replace(three, total_steps=(1, 2)))
    with pytest.raises(UserError, match="give --learning_rate too"):
        build_recipe(dataclasses.replace(three, learning_rate=()))


def test_a_folder_belongs_to_one_recipe(tmp_path):
    path, recipe = tmp_path / "family.json", RECIPES["uer"]
    check_recipe_file(path, settings_of(recipe, vocab_path="a.txt"))
    check_recipe_file(path, settings_of(recipe, vocab_path="a.txt"))
    smaller = dataclasses.replace(recipe, stages=tuple(dataclasses.replace(s, batch_size=1) for s in recipe.stages))
    check_recipe_file(path, settings_of(smaller, vocab_path="a.txt"))  # the share of a device is no part of a recipe
    with pytest.raises(UserError, match=r"vocab_path was \"a.txt\" and is now \"b.txt\"; name another --output_dir"):
        check_recipe_file(path, settings_of(recipe, vocab_path="b.txt"))
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not JSON"):
        check_recipe_file(path, settings_of(recipe))


def test_a_corpus_that_is_not_there_is_said_before_anything_is_remembered(tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "b.txt").write_text("three\n")
    assert corpus_facts((str(tmp_path),)) == {"files": ["a.txt", "b.txt"], "bytes": 10}
    with pytest.raises(UserError, match=r"--corpus_path .*c\.txt"):
        corpus_facts((str(tmp_path / "c.txt"),))
