"""Rows of settings that read both ways: config.json as it was written before there were rows, and what is refused."""

import json

import pytest

from uer.config import ModelConfig
from uer.convert import ARCHITECTURES
from uer.convert.settings import Names, Setting, labels_of, read_settings, require_sizes, write_settings
from uer.errors import UserError

BERT = ARCHITECTURES["bert"]
BASE = '''{"architectures": ["BertForMaskedLM"], "model_type": "bert", "attention_probs_dropout_prob": 0.1,
"classifier_dropout": null, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
"initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
"num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute",
"tie_word_embeddings": true, "type_vocab_size": 2, "use_cache": true, "vocab_size": 21128}'''


def test_the_settings_of_bert_base_in_their_order() -> None:
    content = BERT.config_json(ModelConfig(tie_weights=True), 21128, "mlm")
    assert json.dumps(content) == json.dumps(json.loads(BASE))


def test_names_have_one_way_there_and_several_back() -> None:
    names = Names({"gelu_fast": ("gelu_new", "gelu_fast"), "relu": ("relu",)}, "theirs")
    assert names.to("gelu_fast") == "gelu_new" and names.back("gelu_fast") == names.back("gelu_new") == "gelu_fast"
    with pytest.raises(ValueError, match="gelu has no counterpart in theirs; these have: gelu_fast, relu"):
        names.to("gelu")
    with pytest.raises(ValueError, match="tanh has no counterpart in UER; these have: gelu_new, relu, gelu_fast"):
        names.back("tanh")
    with pytest.raises(ValueError, match="has no counterpart"):
        names.back(["relu"])


def test_rows_that_one_side_counts() -> None:
    """As if RoBERTa's 514 positions were UER's 512."""
    row = Setting("max_seq_length", "max_position_embeddings", lambda size: size + 2, lambda size: size - 2,
                  size="positions")
    assert write_settings([row], {"max_seq_length": 512}, "mlm") == {"max_position_embeddings": 514}
    assert row.back(514) == 512
    require_sizes([row], {"max_position_embeddings": 514}, {"positions": 512}, "x")
    with pytest.raises(UserError, match="says max_position_embeddings 512, but the weights have 514"):
        require_sizes([row], {"max_position_embeddings": 512}, {"positions": 512}, "x")


def test_a_setting_that_is_absent_or_null_has_its_default_or_says_nothing() -> None:
    rows = [Setting("hidden_act", "act", default="relu"), Setting("dropout", "drop"), Setting("", "kind", must="a")]
    for content in ({}, {"act": None, "drop": None, "kind": None}):
        assert read_settings(rows, content, "x", "MODEL") == {"hidden_act": "relu"}
    assert read_settings(rows, {"act": "gelu", "drop": 0.0, "kind": "a"}, "x", "MODEL") == {
        "hidden_act": "gelu", "dropout": 0.0}
    with pytest.raises(UserError, match="x: kind is b; UER's MODEL has a"):
        read_settings(rows, {"kind": "b"}, "x", "MODEL")


@pytest.mark.parametrize(("content", "message"), [
    ({"hidden_dropout_prob": 1}, r"hidden_dropout_prob must lie in \[0, 1\), not 1"),
    ({"hidden_dropout_prob": "much"}, "hidden_dropout_prob must lie in"),
    ({"num_attention_heads": True}, "num_attention_heads must be a whole number, not True"),
    ({"is_decoder": True}, "is_decoder is True; UER's BERT has False"),
    ({"hidden_act": "mish"}, "hidden_act mish has no counterpart in UER; these have: gelu, gelu_fast, relu, silu, "
                             "gelu_new, gelu_pytorch_tanh, swish"),
])
def test_a_config_of_another_function_is_refused(content: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^x: {message}"):
        BERT.read_config(content, "x")


def test_what_weights_do_not_tell() -> None:
    sizes = {"vocab": 11, "hidden": 96, "embedding": 16, "feedforward": 7, "positions": 5}
    with pytest.raises(UserError, match="hidden size 96 is no multiple of 64, so the number of heads is not known"):
        BERT.model_config({**sizes, "layers": 2}, None, "mlm", True, "x")
    albert = ARCHITECTURES["albert"]
    with pytest.raises(UserError, match="layers share one set of weights, so their number is not known"):
        albert.model_config(sizes, None, "mlm", False, "x", {"heads_num": 4})
    config = albert.model_config(sizes, None, "albert", False, "x", {"heads_num": 4, "layers_num": 9})
    assert (config.layers_num, config.emb_size, config.target) == (9, 16, ("mlm", "sp"))
    assert config.parameter_sharing and config.factorized_embedding_parameterization


def test_labels() -> None:
    assert labels_of({}, 2, "x") == ("LABEL_0", "LABEL_1")
    assert labels_of({"id2label": {"1": "b", "0": "a"}}, 2, "x") == ("a", "b")
    with pytest.raises(UserError, match="id2label has no label 1; the weights have 0 to 1"):
        labels_of({"id2label": {"0": "a", "2": "b"}}, 2, "model")
    with pytest.raises(UserError, match="id2label names 'a' twice"):
        labels_of({"id2label": {"0": "a", "1": "a"}}, 2, "model")
    with pytest.raises(UserError, match="id2label names 1 labels, the weights have 2"):
        labels_of({"id2label": {"0": "a"}}, 2, "x")


@pytest.mark.parametrize(("name", "key", "usual"), [
    ("bert", "layer_norm_eps", None), ("albert", "layer_norm_eps", None), ("gpt2", "layer_norm_epsilon", 1e-5)])
def test_the_epsilon_of_layer_norms_is_read_and_written(name: str, key: str, usual: float | None) -> None:
    """Where config.json is silent, GPT-2's is 1e-5, as in transformers; 1e-12 is UER's own."""
    architecture = ARCHITECTURES[name]
    head = next(iter(architecture.outputs))
    assert architecture.read_config({}, "x").get("layernorm_eps") == usual
    for written, ours in ((1e-12, None), (1e-5, 1e-5), (0.25, 0.25)):
        assert architecture.read_config({key: written}, "x")["layernorm_eps"] == ours
        config = ModelConfig(layernorm_eps=ours, hidden_act="gelu_fast")
        assert architecture.config_json(config, 9, head)[key] == written
    for wrong in (0.0, 1.0, "small", True, float("nan")):
        with pytest.raises(UserError, match=f"^x: {key} must lie between 0 and 1, not {wrong}$"):
            architecture.read_config({key: wrong}, "x")


def activation_key(name: str) -> str:
    """What config.json calls the activation function; empty where the architecture has only one."""
    return next(row.hugging_face for row in ARCHITECTURES[name].settings if row.uer == "hidden_act")


@pytest.mark.parametrize("name", filter(activation_key, ARCHITECTURES))
def test_an_unknown_activation_function_is_refused_in_one_line(name: str) -> None:
    key = activation_key(name)
    for unknown in ("gelu_10", "", ["gelu"], 3):
        with pytest.raises(UserError, match=r"^x: .* has no counterpart in UER; these have: [^\n]*gelu.*$") as found:
            ARCHITECTURES[name].read_config({key: unknown}, "x")
        assert key in str(found.value)
