"""The configuration files of ModernBERT, LLaMA, Llama 2 and BLOOM: parameters, and what transformers has for them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from uer.config import ModelConfig
from uer.convert import ARCHITECTURES
from uer.planning.flops import parameter_count
from uer.sections import from_json

# Millions of parameters with the vocabulary of the published model; of ModernBERT with a masked-language model's head.
PUBLISHED = {
    "llama": (32000, {"7b": 6738.4, "13b": 13015.9, "30b": 32528.9, "65b": 65285.7}),
    "llama2": (32000, {"7b": 6738.4, "13b": 13015.9, "70b": 68976.6}),
    "bloom": (250880, {"560m": 559.2, "1b1": 1065.3, "1b7": 1722.4, "3b": 3002.6, "7b1": 7069.0}),
    "modernbert": (50368, {"base": 149.7, "large": 395.9}),
}
FILES = [(family, name, vocab, size) for family, (vocab, sizes) in PUBLISHED.items() for name, size in sizes.items()]
SIZES = [(layers, hidden) for layers in (2, 4, 6, 8, 10, 12) for hidden in (128, 256, 512, 768)]
VOCAB = 21128  # google_zh_vocab.txt


def config_of(root: Path, name: str) -> ModelConfig:
    return from_json(ModelConfig, json.loads((root / "models" / f"{name}_config.json").read_text()), name)


def test_every_file_is_listed_here(root: Path) -> None:
    names = {family: {"tiny", *sizes} for family, (_, sizes) in PUBLISHED.items()}
    names["modernbert"] |= {f"L-{layers}_H-{hidden}" for layers, hidden in SIZES}
    for family, expected in names.items():
        found = {path.name.removesuffix("_config.json") for path in (root / "models" / family).iterdir()}
        assert found == expected


@pytest.mark.parametrize(("family", "name", "vocab", "size"), FILES)
def test_parameters(root: Path, family: str, name: str, vocab: int, size: float) -> None:
    assert round(parameter_count(config_of(root, f"{family}/{name}"), vocab) / 1e6, 1) == size


@pytest.mark.parametrize(("layers", "hidden"), SIZES)
def test_the_family_has_the_parameters_of_berts(root: Path, layers: int, hidden: int) -> None:
    """Of its layers, within a twentieth; and as many as the formula says."""
    modern = config_of(root, f"modernbert/L-{layers}_H-{hidden}")
    bert = config_of(root, f"bert/L-{layers}_H-{hidden}")
    assert (modern.layers_num, modern.hidden_size, modern.heads_num) == (
        bert.layers_num, bert.hidden_size, bert.heads_num)
    wide = modern.feedforward_size
    layer = 4 * hidden**2 + 3 * hidden * wide
    norms = 2 * layers + 2  # of embedding, end and target; the first layer has one, others two
    head = hidden**2 + VOCAB
    assert parameter_count(modern, VOCAB) == VOCAB * hidden + layers * layer + norms * hidden + head
    assert abs(layer / (12 * hidden**2) - 1) < 0.05


def test_a_pooling_that_transformers_lacks_is_refused_for_classifiers_alone(root: Path) -> None:
    config, architecture = replace(config_of(root, "modernbert/tiny"), pooling="max"), ARCHITECTURES["modernbert"]
    assert architecture.config_json(config, VOCAB, "mlm")["classifier_pooling"] == "cls"
    with pytest.raises(ValueError, match="max has no counterpart"):
        architecture.config_json(config, VOCAB, "text_classification")


@pytest.mark.parametrize("name", ["llama/7b", "llama2/70b", "bloom/1b1", "modernbert/base", "modernbert/tiny"])
def test_they_are_what_their_conversions_take(root: Path, name: str) -> None:
    config = config_of(root, name)
    architecture = ARCHITECTURES["llama" if name.startswith("llama") else name.partition("/")[0]]
    head = next(iter(architecture.outputs))
    sizes = {"hidden": config.hidden_size, "vocab": 99, "layers": config.layers_num,
             "feedforward": config.feedforward_size, "inner": config.hidden_size,
             "kv": config.hidden_size // config.heads_num * (config.local_kv_heads_num or config.heads_num)}
    if "kv" not in " ".join(row.shape for row in architecture.names.stacks["encoder"].rows).split():
        del sizes["kv"]
    assert architecture.model_config(sizes, config, head, config.tie_weights, "x") == config
    told = architecture.read_config(architecture.config_json(config, 99, head), "x")
    found = architecture.model_config(sizes, None, head, config.tie_weights, "x", told)
    # Hugging Face's file does not say what changes no result.
    assert replace(found, members={}) == replace(config, members={}, layer_number_scale=False)
