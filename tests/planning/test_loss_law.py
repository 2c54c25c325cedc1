"""The power law of the held-out loss: its fit, its errors, where it is used."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from uer.config import ModelConfig
from uer.errors import UserError
from uer.model_settings import find_config, model_settings
from uer.planning.loss_law import (
    SHIPPED,
    Coefficients,
    Run,
    fit_law,
    fitted,
    kind_of,
    law_of,
    layer_parameters,
    read_law,
)

TRUE = Coefficients(limit=1.5, size_factor=0.6, size_exponent=0.4, token_factor=3.0, token_exponent=0.5)
SIZES, BUDGETS = (0.4e6, 0.8e6, 1.6e6, 3.2e6), (2.5e6, 5e6, 10e6, 40e6)
MODERN = "models/modernbert/L-2_H-128_config.json"


def runs(noise: float = 0.0, law: Coefficients = TRUE) -> list[Run]:
    draws = np.random.default_rng(0).normal(0, noise, (len(SIZES), len(BUDGETS)))
    return [Run(size, tokens, law.loss(size, tokens) + draws[row, column])
            for row, size in enumerate(SIZES) for column, tokens in enumerate(BUDGETS)]


@pytest.fixture(scope="module")
def law():
    return fit_law(runs(0.02), "text", kind_of(model_settings(MODERN)), 21128)


@pytest.mark.parametrize("true", [TRUE, TRUE._replace(limit=0.0), TRUE._replace(size_exponent=1.2, token_exponent=0.1)])
def test_a_law_is_found_again_from_its_own_losses(true):
    found = fitted(runs(law=true))
    for size, tokens in ((0.2e6, 1e6), (1e6, 7e6), (3e6, 30e6)):
        assert found.loss(size, tokens) == pytest.approx(true.loss(size, tokens), abs=1e-3)
    assert found.size_exponent == pytest.approx(true.size_exponent, rel=0.01)


def test_the_loss_of_a_point_worked_by_hand():
    # 1.5 + 0.6 / 4^0.4 + 3 / 9^0.5 = 1.5 + 0.6 / 1.7411 + 1
    assert TRUE.loss(4e6, 9e6) == pytest.approx(1.5 + 0.6 / 1.741101 + 1.0, abs=1e-6)


def test_the_error_is_as_large_as_the_noise_within_the_runs_and_grows_beyond_them(law):
    root = math.sqrt(np.mean(np.square(law.missed())))
    assert 0.01 < root < 0.05
    inside, far = law.expected(1.6e6, 10e6), law.expected(100e6, 10e9)
    assert abs(inside[0] - TRUE.loss(1.6e6, 10e6)) < 3 * inside[1]
    assert root <= inside[1] < far[1]
    assert law.beyond(1.6e6, 10e6) == 1 and law.beyond(32e6, 10e6) == pytest.approx(10)
    assert law.beyond(1.6e6, 0.5e6) == pytest.approx(5)


def test_a_plan_says_when_it_guesses(law):
    assert "guess" not in law.line("a.json", 1.6e6, 10e6)
    line = law.line("a.json", 1.6e6, 4e9)
    assert "100 times beyond" in line and "16 runs of 400,000 to 3.2 million parameters" in line


def test_a_law_is_of_one_kind_of_model(law):
    modern = model_settings(MODERN)
    assert law.is_of(modern, 21128) and law.is_of(replace(modern, layers_num=9, hidden_size=64), 21128)
    assert not law.is_of(modern, 8000)
    assert not law.is_of(replace(modern, attention_window=64), 21128)
    assert not law.is_of(model_settings("models/bert/tiny_config.json"), 21128)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_without_the_vocabulary_do_not_depend_on_it(tied):
    config = ModelConfig(embedding=("word", "pos"), emb_size=16, hidden_size=16, feedforward_size=32, heads_num=2,
                         layers_num=3, tie_weights=tied)
    assert layer_parameters(config, 1000) == layer_parameters(config, 33)
    deeper = layer_parameters(replace(config, layers_num=4), 1000) - layer_parameters(config, 1000)
    assert deeper == 4 * 16 * 17 + 2 * 16 * 32 + 32 + 16 + 4 * 16  # attention, feed-forward layers, two norms


def test_a_file_holds_the_whole_law(law, tmp_path):
    path = tmp_path / "law.json"
    path.write_text(json.dumps(law.json()))
    assert read_law(path) == law


@pytest.mark.parametrize("damage", [
    lambda content: content.pop("runs"), lambda content: content["runs"].pop(),
    lambda content: content.update(coefficients=[1, 2]), lambda content: content["runs"][0].update(more=1),
    lambda content: content.update(without_one=[[1, 2]] * 16),
    lambda content: content["coefficients"].update(limit="x")])
def test_a_damaged_file_is_refused(law, tmp_path, damage):
    content = json.loads(json.dumps(law.json()))
    damage(content)
    path = tmp_path / "law.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"--loss_law .*law.json: not a law"):
        read_law(path, "--loss_law")


def test_runs_that_make_no_law_are_refused():
    for few, message in ((runs()[:4], "different numbers of parameters"), (runs()[::4], "different numbers of tokens"),
                         (runs()[:6], "at least 7 runs"),
                         ([run._replace(loss=10 - run.loss) for run in runs()], "no power law")):
        with pytest.raises(UserError, match=message):
            fit_law(few, "", {}, 100)


@pytest.mark.parametrize("path", SHIPPED)
def test_shipped_laws_are_of_their_architecture_and_miss_little(path):
    law = read_law(find_config(path))
    config = model_settings(f"models/{Path(path).stem}/L-4_H-256_config.json")
    assert law_of(config, 21128) == (path, law)
    assert fitted(law.runs).loss(3.2e6, 20e6) == pytest.approx(law.coefficients.loss(3.2e6, 20e6), abs=1e-3)
    assert max(map(abs, law.missed())) < 0.2 and law.about
