"""The configuration files of the families other than BERT: their parameters, and their settings beside UER-py's."""

import json

import pytest

from uer.config import ModelConfig
from uer.finetuning.heads import SiameseClassifier
from uer.meta_device import Unfilled
from uer.planning.flops import parameter_count
from uer.sections import from_json, settings_of

# Folder -> the golden model whose settings its files have but for sizes; then each file's parameters in millions.
FAMILIES: dict[str, tuple[str, dict[str, float]]] = {
    "albert": ("albert_mlm_sp", {"base": 13.4, "large": 19.4, "xlarge": 60.6, "xxlarge": 224.7}),
    "bart": ("bart", {"base": 117.1, "large": 376.5}),
    "cnn": ("gatedcnn_lm", {"gatedcnn_9": 62.3, "gatedcnn_13": 185.2}),
    "gpt2": ("gpt2_lm", {"": 102.1, "distil": 59.5, "medium": 325.0, "large": 736.7, "xlarge": 1511.0}),
    "megatron": ("", {"bert_3.9B": 3899.1, "gpt2_8.3B": 8224.7}),
    "pegasus": ("pegasus", {"base": 214.7, "large": 491.9}),
    "rnn": ("", {"lstm": 25.8, "gru": 24.8, "bilstm": 44.4, "siamese_lstm": 15.0}),
    "sbert": ("sbert_siamese", {"base": 101.7, "large": 324.5}),
    "t5": ("t5", {"small": 54.9, "base": 214.5, "large": 726.5, "3b": 2840.4, "11b": 11296.2}),
    "t5-v1_1": ("t5_v1_1", {"small": 65.8, "base": 230.8, "large": 760.8, "xlarge": 2805.1, "xxlarge": 11046.0}),
    "transformer": ("transformer_mt", {"base": 65.8, "big": 219.6}),
    "xlm-roberta": ("xlm_roberta_mlm", {"base": 470.3, "large": 816.1}),
}
GOLDEN = {"megatron/bert_3.9B": "megatron_bert_mlm_sp", "megatron/gpt2_8.3B": "megatron_gpt2_lm",
          "rnn/lstm": "lstm_lm", "rnn/gru": "gru_lm", "rnn/bilstm": "bilstm_bilm", "rnn/siamese_lstm": "lstm_siamese"}
FILES = {f"{family}/{name}": (golden or GOLDEN[f"{family}/{name}"], size)
         for family, (golden, sizes) in FAMILIES.items() for name, size in sizes.items()}
VOCAB = {"t5": 21228, "t5-v1_1": 21228, "xlm-roberta": 250002}  # else 21128
SIZES = {"emb_size", "hidden_size", "feedforward_size", "heads_num", "attention_head_size", "layers_num",
         "decoder_layers_num", "dropout", "max_seq_length", "vocab_size"}
# tests/test_configs.py, tests/test_modern_configs.py, tests/test_loss_law.py
ELSEWHERE = {"bert", "modernbert", "llama", "llama2", "bloom", "loss_laws"}
USUAL = {field.name: field.default for field in settings_of(ModelConfig)}


def content_of(root, name: str) -> dict:
    path = root / "models" / (f"{name}_config.json" if not name.endswith("/") else f"{name}config.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_file_is_listed_here(root):
    found = {str(path.relative_to(root / "models")).removesuffix("config.json").removesuffix("_")
             for path in (root / "models").glob("*/*.json") if path.parent.name not in ELSEWHERE}
    assert found == FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_parameters(root, name):
    config = from_json(ModelConfig, content_of(root, name), name)
    family = name.partition("/")[0]
    vocab = VOCAB.get(family, 21128)
    if config.encoder == "dual":
        with Unfilled():
            count = SiameseClassifier(config, vocab, 3).num_parameters()
    else:
        count = parameter_count(config, vocab)
    assert round(count / 1e6, 1) == FILES[name][1]


def structure(content: dict) -> dict:
    """Everything but sizes, without what is the default; the streams of a dual encoder likewise."""
    found = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found[key] = structure(value)
        elif key not in SIZES | {"data_processor", "labels_num"}:
            value = tuple([value] if isinstance(value, str) else value) if isinstance(USUAL.get(key), tuple) else value
            found[key] = value
    return {key: value for key, value in found.items() if value not in (USUAL.get(key), False, None)}


@pytest.mark.parametrize("name", FILES)
def test_settings_are_those_of_the_golden_model(root, golden, name):
    model = golden / "breadth" / "models" / f"{FILES[name][0]}.json"
    assert structure(content_of(root, name)) == structure(json.loads(model.read_text(encoding="utf-8"))["config"])


def test_sizes(root):
    """Of files whose sizes do not follow from their hidden size."""
    keys = ("hidden_size", "feedforward_size", "heads_num", "attention_head_size", "layers_num", "decoder_layers_num",
            "max_seq_length")
    sizes = {"t5/3b": (1024, 16384, 32, 128, 24, 24, 512), "t5-v1_1/small": (512, 1024, 6, 64, 8, 8, 512),
             "megatron/gpt2_8.3B": (3072, 12288, 24, None, 72, None, 1024),
             "xlm-roberta/large": (1024, 4096, 16, None, 24, None, 514),
             "bart/base": (768, 3072, 12, None, 6, 6, 1024), "albert/xlarge": (2048, 8192, 16, None, 24, None, 512)}
    for name, expected in sizes.items():
        content = content_of(root, name)
        assert tuple(content.get(key) for key in keys) == expected, name
