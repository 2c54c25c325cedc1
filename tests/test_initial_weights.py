"""The weights that a model starts with: their distribution, and where they are drawn."""

import dataclasses

import torch

from tests.test_model import CONFIG, VOCAB, make_batch
from uer.model import build_model


def test_weights_start_as_berts():
    config = dataclasses.replace(CONFIG, emb_size=128, hidden_size=128, feedforward_size=512, heads_num=2)
    torch.manual_seed(1)
    model = build_model(config, 2003)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            assert (parameter == 1).all(), name
        elif parameter.dim() == 1:
            assert (parameter == 0).all(), name
        else:
            expected = 0.02 / parameter.numel() ** 0.5
            assert abs(parameter.mean().item()) < 5 * expected, name
            assert abs(parameter.std().item() / 0.02 - 1) < 5 / (2 * parameter.numel()) ** 0.5, name
    torch.manual_seed(1)
    again = build_model(config, 2003)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters()))


def test_deep_init_scales_what_a_layer_adds():
    config = dataclasses.replace(CONFIG, emb_size=128, hidden_size=128, feedforward_size=512, heads_num=2, layers_num=8)
    model = build_model(config, 97, deep_init=True)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "encoder" in name:
            scaled = "final_linear" in name or "feed_forward.linear_2" in name
            assert abs(parameter.std().item() - 0.02 * (0.25 if scaled else 1)) < 0.0005, name


def test_the_initial_weights_have_the_standard_deviation_that_is_asked_for():
    config = dataclasses.replace(CONFIG, emb_size=128, hidden_size=128, feedforward_size=512, heads_num=2)
    for name, parameter in build_model(config, 97, initializer_range=0.08).named_parameters():
        if parameter.dim() > 1 and parameter.numel() > 1000:
            assert abs(parameter.std().item() - 0.08) < 0.004, name
        elif parameter.dim() == 1:
            assert torch.equal(parameter, torch.full_like(parameter, float("gamma" in name))), name


def test_a_model_made_without_memory_can_be_initialised_later():
    """What a model larger than one device would need."""
    with torch.device("meta"):
        model = build_model(CONFIG, VOCAB)
    model = model.to_empty(device="cpu")
    model.target["mlm"].linear_2.weight = model.embedding.word.embedding.weight
    model.initialise()
    assert abs(model(make_batch()).loss.item() - torch.tensor(VOCAB).log().item()) < 0.3
