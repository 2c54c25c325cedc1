"""A checkpoint of another size than the settings is answered by the sizes that differ and the flag."""

import dataclasses

import pytest
import torch

from uer.config import ModelConfig, TrainConfig
from uer.errors import UserError
from uer.model import build_model
from uer.sizes import check_sizes, sizes_of

CONFIG = ModelConfig(emb_size=12, hidden_size=12, feedforward_size=20, heads_num=3, layers_num=2, max_seq_length=16,
                     embedding=("word", "pos", "seg"))


@pytest.mark.parametrize("changes", [{}, {"parameter_sharing": True},
                                     {"emb_size": 5, "factorized_embedding_parameterization": True}])
def test_sizes_are_those_of_the_settings(changes):
    config = dataclasses.replace(CONFIG, **changes)
    sizes = sizes_of(build_model(config, 30).state_dict())
    assert sizes.pop("vocabulary") == 30
    assert sizes == {name: getattr(config, name) for name in sizes}
    assert {"emb_size", "hidden_size", "feedforward_size", "max_seq_length"} <= sizes.keys()
    check_sizes(build_model(config, 30).state_dict(), config, 30, "m.bin", "c.json")


@pytest.mark.parametrize("changes, vocab_size, words", [
    ({"hidden_size": 24, "emb_size": 24, "layers_num": 3}, 30, ("layers 2, hidden 12", "layers 3, hidden 24")),
    ({"layers_num": 1}, 30, ("layers 2", "layers 1", "--config_path")),
    ({"feedforward_size": 48}, 30, ("feed-forward 20", "feed-forward 48")),
    ({}, 31, ("30 vocabulary entries", "--vocab_path has 31")),
    ({"max_seq_length": 32}, 30, ("16 positions", "--max_seq_length 16")),
])
def test_what_differs_is_named(changes, vocab_size, words):
    state = build_model(CONFIG, 30).state_dict()
    with pytest.raises(UserError) as caught:
        check_sizes(state, dataclasses.replace(CONFIG, **changes), vocab_size, "m.bin", "c.json")
    assert all(word in str(caught.value) for word in ("m.bin", *words))


def test_the_default_settings_file_is_called_so():
    with pytest.raises(UserError, match=r"base_config.json .--config_path's default"):
        check_sizes(build_model(CONFIG, 30).state_dict(), ModelConfig(), 30, "m.bin", TrainConfig.config_path)


def test_what_the_tensors_do_not_tell_is_not_compared():
    check_sizes({"encoder.rnn.weight_ih_l0": torch.ones(3, 3)}, CONFIG, 30, "m.bin", "c.json")
