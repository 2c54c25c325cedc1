"""Files of earlier versions still load, and so do UER-py's own settings files.

What was written when there was one processor and one target is made here by hand: settings with keys that later went to
single encoders and targets (`bidirectional`, `has_lmtarget_bias`) and with a decoder that no model had; training states
whose sums are not named after a target; datasets of format version 1.
"""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tools.configs import model_config
from tests.tools.faults import SPECIAL, TINY, run
from uer.config import ModelConfig, model_identity
from uer.convert.provenance import Stage
from uer.data.store import open_dataset
from uer.encoders.gatedcnn import GatedCnnConfig
from uer.errors import UserError
from uer.meta_device import Unfilled
from uer.model import build_model
from uer.model_settings import model_settings

OLD_KEYS = {"bidirectional": False, "has_lmtarget_bias": False, "decoder": "transformer"}
NEW_KEYS = ("attention_head_size", "stream_0", "stream_1", "label_smoothing")
PRETRAIN = ("pretrain.py --dataset_path d.pt --vocab_path vocab.txt --tokenizer char --config_path c.json --device cpu "
            "--data_processor mlm --target mlm --total_steps 6 --save_checkpoint_steps 4 --report_steps 5 "
            "--batch_size 3 --learning_rate 0.01")
FINETUNE = ("finetune/run_classifier.py --vocab_path vocab.txt --tokenizer char --config_path c.json --train_path "
            "train.tsv --dev_path train.tsv --seq_length 8 --epochs_num 1 --output_model_path f.bin --device cpu")
INFER = ("inference/run_classifier_infer.py --load_model_path f.bin --test_path train.tsv --device cpu --output_prob "
         "--prediction_path")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A vocabulary, settings, a dataset and examples, in the current folder."""
    monkeypatch.chdir(tmp_path)
    characters = [chr(0x4E00 + number) for number in range(20)]
    (tmp_path / "vocab.txt").write_text("\n".join(SPECIAL + characters) + "\n", encoding="utf-8")
    (tmp_path / "c.json").write_text(json.dumps({**TINY, "dropout": 0.1}))
    lines = ["".join(characters[(first + step * step) % 20] for step in range(3 + first)) for first in range(12)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "train.tsv").write_text("label\ttext_a\n" + "0\t一丁\n1\t七万\n" * 4, encoding="utf-8")
    return tmp_path


def succeed(command: str) -> str:
    done = run(*command.split())
    assert done.status == 0, (command, done.err)
    return done.out


def old_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Model settings as earlier versions wrote them."""
    return {**{name: value for name, value in settings.items() if name not in NEW_KEYS}, **OLD_KEYS}


def test_a_fine_tuned_model(folder):
    succeed(FINETUNE)
    succeed(f"{INFER} new.tsv")
    settings = json.loads((folder / "f.json").read_text(encoding="utf-8"))
    settings["model"] = old_settings(settings["model"])
    (folder / "f.json").write_text(json.dumps(settings), encoding="utf-8")
    succeed(f"{INFER} old.tsv")
    assert (folder / "old.tsv").read_text() == (folder / "new.tsv").read_text()


@pytest.mark.parametrize("masks", ["--dynamic_masking", "--dup_factor 2 --span_masking --seed 11"])
def test_a_run_that_was_stopped(folder, masks):
    """A state of an earlier version, on a dataset of format version 1: the same reports, the same final weights."""
    succeed("preprocess.py --corpus_path text.txt --vocab_path vocab.txt --tokenizer char --data_processor mlm "
            f"--seq_length 8 --dataset_path d.pt {masks}")
    succeed(f"{PRETRAIN} --output_model_path m --metrics_path whole.jsonl")
    whole, report = (folder / "m-6").read_bytes(), report_of(folder / "whole.jsonl")
    state = torch.load(folder / "m.state-4", weights_only=True)
    state["settings"] = json.dumps(old_settings(json.loads(state["settings"])))
    state["sums"] = {name.replace("metric mlm/", "metric "): value for name, value in state["sums"].items()}
    assert {"metric acc", "metric loss"} <= state["sums"].keys() and state["sums"]["updates"] > 0
    for path in folder.glob("m*"):
        path.unlink()
    torch.save(state, folder / "m.state-4")
    as_version_1(folder / "d.pt")
    out = succeed(f"{PRETRAIN} --output_model_path m --metrics_path rest.jsonl")
    assert "resumed after step 4" in out
    assert (folder / "m-6").read_bytes() == whole
    assert report_of(folder / "rest.jsonl") == report


def report_of(path: Path) -> dict[str, Any]:
    """What step 5, the first after the state's, reports of the steps before."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    found = next(record for record in records if record["step"] == 5)
    return {name: found[name] for name in ("loss", "acc", "grad_norm", "learning_rate")}


def as_version_1(path: Path) -> None:
    """Rewrite a dataset of one sequence as format version 1."""
    info = open_dataset(path).info
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8:8 + length]), content[8 + length:]
    before = header.pop("__metadata__")
    kept = ("processor", "seq_length", "dynamic_masking", "dup_factor", "seed", "counts", "command", "format")
    masking = {name: value for name, value in info.processor_settings.items() if name != "full_sentences"}
    metadata = {**{name: before[name] for name in kept}, "format_version": "1",
                "offsets_shift": str(json.loads(before["offsets_shift"])["src"]), "masking": json.dumps(masking),
                "vocab_fingerprint": json.dumps(info.vocab.fingerprint), "vocab_size": str(info.vocab.size),
                "special_ids": json.dumps(info.vocab.special_ids), "tokenizer": json.dumps(info.vocab.tokenizer)}
    names = {"src": "tokens", "src.starts": "starts", "src.block_starts": "block_starts"}
    text = json.dumps({"__metadata__": metadata, **{names[name]: entry for name, entry in header.items()}}).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    assert open_dataset(path).info.format_version == 1


# UER-py's settings files: for each family what its files have in common and one of its sizes, with UER-py's keys.
BERT = {"emb_size": 768, "feedforward_size": 3072, "hidden_size": 768, "hidden_act": "gelu", "heads_num": 12,
        "layers_num": 12, "max_seq_length": 512, "dropout": 0.1, "data_processor": "bert",
        "embedding": ["word", "pos", "seg"], "encoder": "transformer", "mask": "fully_visible",
        "target": ["mlm", "sp"], "tie_weights": True}
GPT2 = {"emb_size": 768, "feedforward_size": 3072, "hidden_size": 768, "hidden_act": "gelu_fast", "heads_num": 12,
        "layers_num": 12, "max_seq_length": 1024, "dropout": 0.1, "data_processor": "lm", "embedding": ["word", "pos"],
        "remove_embedding_layernorm": True, "encoder": "transformer", "mask": "causal", "layernorm_positioning": "pre",
        "target": ["lm"], "tie_weights": True}
BOTH_SIDES = {"emb_size": 512, "feedforward_size": 2048, "hidden_size": 512, "hidden_act": "relu", "heads_num": 8,
              "layers_num": 6, "decoder_layers_num": 6, "dropout": 0.1, "encoder": "transformer",
              "mask": "fully_visible", "decoder": "transformer", "target": ["lm"]}
T5 = {**BOTH_SIDES, "data_processor": "t5", "embedding": ["word"], "relative_position_embedding": True,
      "remove_embedding_layernorm": True, "tgt_embedding": ["word"], "share_embedding": True,
      "layernorm_positioning": "pre", "remove_attention_scale": True, "remove_transformer_bias": True,
      "layernorm": "t5", "tie_weights": True}
RNN = {"emb_size": 512, "hidden_size": 512, "layers_num": 2, "dropout": 0.1, "embedding": ["word"],
       "remove_embedding_layernorm": True, "encoder": "lstm", "data_processor": "lm", "target": ["lm"]}
STREAM = {"embedding": ["word", "pos", "seg"], "encoder": "transformer", "mask": "fully_visible",
          "layernorm_positioning": "post"}
UER_PY = {
    "albert/base": {**BERT, "emb_size": 128, "hidden_act": "relu", "dropout": 0.0, "data_processor": "albert",
                    "factorized_embedding_parameterization": True, "parameter_sharing": True},
    "bart/base": {**BOTH_SIDES, "hidden_act": "gelu", "max_seq_length": 1024, "data_processor": "bart",
                  "embedding": ["word", "pos"], "tgt_embedding": ["word", "pos"], "share_embedding": True,
                  "has_lmtarget_bias": True, "tie_weights": True},
    "bert/xlarge": {**BERT, "emb_size": 1536, "feedforward_size": 6144, "hidden_size": 1536, "heads_num": 24,
                    "layers_num": 36},
    "cnn/gatedcnn_9": {"emb_size": 128, "hidden_size": 807, "kernel_size": 4, "block_size": 2, "layers_num": 9,
                       "dropout": 0.1, "data_processor": "lm", "embedding": ["word"],
                       "remove_embedding_layernorm": True, "encoder": "gatedcnn", "target": ["lm"]},
    "gpt2/base": GPT2,
    "megatron/gpt2_8.3B": {**GPT2, "emb_size": 3072, "feedforward_size": 12288, "hidden_size": 3072, "heads_num": 24,
                           "layers_num": 72},
    "pegasus/base": {**BOTH_SIDES, "data_processor": "gsg", "embedding": ["word", "sinusoidalpos"],
                     "remove_embedding_layernorm": True, "tgt_embedding": ["word", "sinusoidalpos"],
                     "share_embedding": True, "layernorm_positioning": "pre", "has_lmtarget_bias": True,
                     "tie_weights": True},
    "rnn/lstm": RNN,
    "rnn/gru": {**RNN, "encoder": "gru"},
    "rnn/bilstm": {**RNN, "hidden_size": 1536, "encoder": "bilstm", "data_processor": "bilm", "target": ["bilm"]},
    "rnn/siamese_lstm": {"emb_size": 512, "hidden_size": 512, "layers_num": 2, "dropout": 0.1, "bidirectional": False,
                         "stream_0": {"embedding": ["word"], "encoder": "lstm"},
                         "stream_1": {"embedding": ["word"], "encoder": "lstm"}, "embedding": "dual",
                         "encoder": "dual", "pooling": "mean", "tie_weights": True, "data_processor": "cls",
                         "target": ["cls"], "labels_num": 2},
    "sbert/base": {"emb_size": 768, "feedforward_size": 3072, "hidden_size": 768, "hidden_act": "gelu",
                   "heads_num": 12, "layers_num": 12, "max_seq_length": 512, "dropout": 0.1, "stream_0": STREAM,
                   "stream_1": STREAM, "embedding": ["dual"], "encoder": "dual", "pooling": "first",
                   "tie_weights": True, "labels_num": 2},
    "t5/small": T5,
    "t5/3b": {**T5, "emb_size": 1024, "feedforward_size": 16384, "hidden_size": 1024, "heads_num": 32,
              "attention_head_size": 128, "layers_num": 24, "decoder_layers_num": 24},
    "t5-v1_1/small": {**T5, "feedforward_size": 1024, "hidden_act": "gelu_fast", "heads_num": 6,
                      "attention_head_size": 64, "layers_num": 8, "decoder_layers_num": 8, "dropout": 0.0,
                      "feed_forward": "gated", "tie_weights": False},
    "transformer/base": {**BOTH_SIDES, "max_seq_length": 512, "data_processor": "mt",
                         "embedding": ["word", "sinusoidalpos"], "tgt_embedding": ["word", "sinusoidalpos"],
                         "tie_weights": True},
    "xlm-roberta/base": {**BERT, "max_seq_length": 514, "data_processor": "mlm", "target": ["mlm"]},
}
# What is not pretrained, by the words of the refusal.
REFUSED = {"rnn/siamese_lstm": "'dual' encodes pairs of texts", "sbert/base": "'dual' encodes pairs of texts"}
ENTRIES = 21128


@pytest.fixture(params=UER_PY)
def family(request, tmp_path) -> tuple[str, Path]:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(UER_PY[request.param]))
    return request.param, path


def test_settings_files_of_every_family_are_read(family):
    """Every key is known, and has the file's value."""
    name, path = family
    config = model_settings(path)
    values = json.loads(json.dumps(config.values()))
    for key, value in UER_PY[name].items():
        if key != "data_processor":
            assert values[key] == ([value] if key == "embedding" and isinstance(value, str) else value), key


def test_what_is_not_pretrained_is_refused_by_name(family):
    """Nothing else is: the other families' models are built, and have the parameters that UER-py's have."""
    name, path = family
    config = model_settings(path)
    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]), Unfilled():
            build_model(config, ENTRIES)
    else:
        with Unfilled():
            assert build_model(config, ENTRIES).num_parameters() > 10_000_000


def test_what_is_recorded_beside_a_checkpoint_tells_its_model(tmp_path):
    """Settings of single encoders too; the decoder that earlier versions named is none."""
    settings = {"encoder": "gatedcnn", "kernel_size": 7, "embedding": ["word"], "target": ["lm"], "total_steps": 9}
    model = Stage("m-4", 4, {**OLD_KEYS, **settings}).model()
    assert (model.encoder, model.decoder, model.target) == ("gatedcnn", None, ("lm",))
    assert model.of(GatedCnnConfig) == GatedCnnConfig(kernel_size=7)
    assert Stage("m-4", 4, {"decoder": "transformer", "stream_0": None}).model().decoder == "transformer"


# `ModelConfig()` as the first version had it, when the keys of finished trials were made from it.
FIRST_SETTINGS = {"emb_size": 768, "hidden_size": 768, "feedforward_size": 3072, "heads_num": 12, "layers_num": 12,
    "decoder_layers_num": 12, "hidden_act": "gelu", "dropout": 0.1, "embedding": ("word",),
    "tgt_embedding": ("word",), "max_seq_length": 512, "relative_position_embedding": False,
    "share_embedding": False, "remove_embedding_layernorm": False,
    "factorized_embedding_parameterization": False, "encoder": "transformer", "decoder": "transformer",
    "mask": "fully_visible", "layernorm_positioning": "post", "feed_forward": "dense",
    "relative_attention_buckets_num": 32, "remove_attention_scale": False, "remove_transformer_bias":
    False, "layernorm": "normal", "bidirectional": False, "parameter_sharing": False,
    "has_residual_attention": False, "has_lmtarget_bias": False, "target": ("mlm",), "tie_weights":
    False, "pooling": "first", "prefix_lm_loss": False}


def test_finished_trials_are_found_again():
    """Their keys are hashes of all settings: those that came later are in them only where they are not the default."""
    assert model_identity(ModelConfig()) == FIRST_SETTINGS
    assert model_identity(ModelConfig(attention_head_size=5)) == {**FIRST_SETTINGS, "attention_head_size": 5}
    bidirectional = model_config(encoder="lstm", bidirectional=True)
    assert model_identity(bidirectional) == {**FIRST_SETTINGS, "encoder": "lstm", "bidirectional": True}


def test_an_unknown_key_names_the_nearest(tmp_path):
    (tmp_path / "c.json").write_text('{"kernal_size": 3}')
    with pytest.raises(UserError, match=r"c\.json: unknown key 'kernal_size'; did you mean 'kernel_size'\?"):
        model_settings(tmp_path / "c.json")
