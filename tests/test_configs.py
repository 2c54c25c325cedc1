"""The shipped configuration files, and the formulas for a model's size and cost."""

import dataclasses
import itertools
import json

import pytest

from uer import cli
from uer.config import ModelConfig, flag
from uer.data.processors import PROCESSORS
from uer.data.schema import VocabInfo
from uer.meta_device import Unfilled
from uer.model import build_model
from uer.planning.flops import flops_per_token, made_tokens, mean_length, mean_tgt_length, parameter_count

VOCAB = 21128
NAMED = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768),
         "large": (24, 1024), "xlarge": (36, 1536), "xlarge-1b": (20, 2048)}
GRID = {f"L-{layers}_H-{hidden}": (layers, hidden)
        for layers, hidden in itertools.product((2, 4, 6, 8, 10, 12), (128, 256, 512, 768))}
SIZES = NAMED | GRID


def read(root, name: str) -> ModelConfig:
    @dataclasses.dataclass(frozen=True)
    class Where:
        config_path: str = flag("", "A JSON file.")

    path = root / "models" / "bert" / f"{name}_config.json"
    return cli.parse("", (ModelConfig, Where), ["--config_path", str(path), "--target", "mlm"])[0]


def test_every_file_is_listed_here(root):
    files = {path.name.removesuffix("_config.json") for path in (root / "models" / "bert").glob("*.json")}
    assert files == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_a_file_describes_the_bert_of_its_name(root, name):
    layers, hidden = SIZES[name]
    expected = ModelConfig(emb_size=hidden, hidden_size=hidden, feedforward_size=4 * hidden, heads_num=hidden // 64,
                           layers_num=layers, embedding=("word", "pos", "seg"), tie_weights=True, target=("mlm",))
    assert read(root, name) == expected
    content = json.loads((root / "models" / "bert" / f"{name}_config.json").read_text(encoding="utf-8"))
    assert content["target"] == ["mlm", "sp"]  # UER's; the command line chooses what is trained


@pytest.mark.parametrize("name", NAMED)
def test_parameters_by_formula(root, name):
    """12 H^2 + 13 H a layer; V H + 512 H + 3 H + 2 H embeddings; H^2 + 3 H + V head (its matrix is tied).

    The sizes of the grid lie between these.
    """
    layers, hidden = SIZES[name]
    by_hand = (layers * (12 * hidden**2 + 13 * hidden) + (VOCAB + 517) * hidden + hidden**2 + 3 * hidden + VOCAB)
    config = read(root, name)
    with Unfilled():
        model = build_model(config, VOCAB)
    assert model.num_parameters() == parameter_count(config, VOCAB) == by_hand


def test_known_sizes(root):
    millions = {name: round(parameter_count(read(root, name), VOCAB) / 1e6, 1) for name in NAMED}
    assert millions == {"tiny": 3.2, "mini": 8.8, "small": 24.0, "medium": 36.6, "base": 102.3, "large": 325.5,
                        "xlarge": 1055.6, "xlarge-1b": 1055.7}


@pytest.mark.parametrize("settings", [
    {"tie_weights": False}, {"parameter_sharing": True}, {"feed_forward": "gated"}, {"layernorm": "t5"},
    {"layernorm_positioning": "pre"}, {"remove_transformer_bias": True}, {"relative_position_embedding": True},
    {"remove_embedding_layernorm": True}, {"embedding": ("word", "sinusoidalpos")},
    {"emb_size": 16, "factorized_embedding_parameterization": True},
    {"emb_size": 16, "factorized_embedding_parameterization": True, "tie_weights": False},
    {"layernorm_positioning": "pre", "layernorm": "t5", "feed_forward": "gated", "remove_transformer_bias": True}])
def test_the_formula_knows_every_option(settings):
    config = ModelConfig(emb_size=28, hidden_size=28, feedforward_size=45, heads_num=7, layers_num=3,
                         max_seq_length=17, embedding=("word", "pos", "seg"), tie_weights=True)
    config = dataclasses.replace(config, **settings)
    assert build_model(config, 37).num_parameters() == parameter_count(config, 37)


def flops_by_hand(layers: int, hidden: int, feedforward: int, length: int, vocab: int, matrices: int = 2) -> float:
    """Of a token slot: three times the forward pass, whose last layer answers only the predicted positions."""
    predicted = round(0.15 * length)
    inner = matrices * hidden * feedforward
    full = 2 * length * (4 * hidden**2 + inner) + 4 * length**2 * hidden
    last = 2 * length * 2 * hidden**2 + 2 * predicted * (2 * hidden**2 + inner) + 4 * predicted * length * hidden
    head = 2 * predicted * (hidden**2 + hidden * vocab)
    return 3 * ((layers - 1) * full + last + head) / length


def test_flops_of_the_known_sizes(root):
    """At 128 tokens; the figures that speed targets are stated in."""
    for name, millions in {"tiny": 4.17, "mini": 21.7, "small": 74.4, "medium": 153, "base": 508}.items():
        layers, hidden = SIZES[name]
        counted = flops_per_token(read(root, name), VOCAB, 128)
        assert counted == flops_by_hand(layers, hidden, 4 * hidden, 128, VOCAB)
        assert counted / 1e6 == pytest.approx(millions, rel=5e-3), name


@pytest.mark.parametrize("settings, matrices", [({}, 2), ({"feed_forward": "gated"}, 3), ({"layers_num": 1}, 2)])
def test_flops_by_formula(settings, matrices):
    config = dataclasses.replace(
        ModelConfig(emb_size=28, hidden_size=28, feedforward_size=45, heads_num=7, layers_num=3), **settings)
    assert flops_per_token(config, 37, 50) == flops_by_hand(config.layers_num, 28, 45, 50, 37, matrices)


def test_flops_of_grouped_queries():
    """Keys and values of 3 of 6 heads are half as wide; a gate is a third matrix of the feed-forward part."""
    config = ModelConfig(emb_size=28, hidden_size=28, feedforward_size=45, heads_num=6, attention_head_size=4,
                         local_kv_heads_num=3, feed_forward="gated", rotary_position_embedding=True, layers_num=3,
                         mask="causal", target=("lm",))
    vocab = VocabInfo("", 37, {role: number for number, role in enumerate(("pad", "unk", "cls", "sep", "mask"))})
    processor = PROCESSORS["lm"](51, PROCESSORS["lm"].config_class(), {"src": vocab})
    matrices = 2 * 28 * 24 + 2 * 28 * 12 + 3 * 28 * 45
    by_hand = 3 * (2 * matrices + 4 * 50 * 24) + 2 * 28 * 37
    assert flops_per_token(config, 37, 50, processor) == 3 * by_hand


@pytest.mark.parametrize("every", [0, 2, 3])
def test_flops_of_local_layers(every):
    """Of long rows, a query has two sides and its own block; the last layer, of few queries, has a mask."""
    config = ModelConfig(emb_size=28, hidden_size=28, feedforward_size=45, heads_num=7, layers_num=8,
                         attention_window=6, global_attention_every=every)
    saved = sum(every == 0 or number % every > 0 for number in range(7)) * 3 * 4 * 28 * (60 - 9)
    assert flops_per_token(config, 37, 60) == pytest.approx(flops_by_hand(8, 28, 45, 60, 37) - saved)


def test_flops_of_an_encoder_without_attention():
    """Of each layer of an lstm: four gates, each from the input and from the state before."""
    config = ModelConfig(emb_size=24, hidden_size=32, layers_num=2, encoder="lstm", embedding=("word",))
    predicted = round(0.15 * 13)
    layers = 2 * 13 * 4 * 32 * ((24 + 32) + (32 + 32))
    head = 2 * predicted * (32**2 + 32 * 37)
    assert flops_per_token(config, 37, 13) == pytest.approx(3 * (layers + head) / 13)


@pytest.mark.parametrize("name, src, tgt", [("mt", 20, 10), ("gsg", 20, 10), ("bart", 20, 19)])
def test_flops_of_both_sides(name, src, tgt):
    """The operations of a row, by the tokens of both of its sides; of mt and gsg by their mean lengths."""
    config = ModelConfig(emb_size=28, hidden_size=28, feedforward_size=45, heads_num=7, layers_num=3, target=("lm",),
                         decoder="transformer", decoder_layers_num=2, mask="fully_visible")
    vocab = VocabInfo("", 37, {role: number for number, role in enumerate(("pad", "unk", "cls", "sep", "mask"))})
    processor = PROCESSORS[name](50, PROCESSORS[name].config_class(), {"src": vocab, "tgt": vocab})
    unread = {axis: length - processor.batch_lengths()[axis] for axis, length in processor.lengths().items()}
    columns = {axis: range(10 * ({"src": src, "tgt": tgt}[axis] + more)) for axis, more in unread.items()}
    datasets = [type("Dataset", (), {"tokens": columns["src"], "columns": columns, "__len__": lambda self: 10})()]
    assert mean_length(datasets, processor) == src
    assert made_tokens(datasets, processor) == (tgt if name == "bart" else 0)
    counted = flops_per_token(config, 37, src, processor, mean_tgt_length(datasets, processor)) * (src + tgt)
    matrices, other = 8 * 28**2 + 4 * 28 * 45, 2 * 28 * 37  # of a layer, and of the logits, for a token
    cross = 4 * src * 28**2 + 4 * tgt * 28**2 + 4 * src * tgt * 28
    by_hand = 3 * (src * matrices + 4 * src**2 * 28) + 2 * (tgt * matrices + 4 * tgt**2 * 28 + cross) + tgt * other
    assert counted == pytest.approx(3 * by_hand, rel=0.1)


@pytest.mark.parametrize("name", ["mlm", "lm"])
def test_flops_of_real_tokens_are_those_of_rows_of_their_mean_length(name):
    """A processor of rows of 50 counts what one of rows of 20 does, for a dataset whose mean row has 20 tokens."""
    config = ModelConfig(emb_size=28, hidden_size=28, feedforward_size=45, heads_num=7, layers_num=3, target=(name,))
    processor, short = (PROCESSORS[name](length, PROCESSORS[name].config_class(), {"src": VocabInfo("", 37, {
        role: number for number, role in enumerate(("pad", "unk", "cls", "sep", "mask"))})}) for length in (50, 20))
    stored = [15, 25] if name == "mlm" else [16, 26]  # a language model stores one token more than a row of its batches
    datasets = [type("Dataset", (), {"tokens": range(10 * count), "__len__": lambda self: 10})() for count in stored]
    assert mean_length(datasets, processor) == 20
    counted = flops_per_token(config, 37, mean_length(datasets, processor), processor)
    assert counted == flops_per_token(config, 37, 20, short) < flops_per_token(config, 37, 50, processor)
    if name == "mlm":
        assert counted == flops_per_token(config, 37, 20)
