"""Embedding and encoder against the figures of the original toolkit: tiny models with random weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tools.configs import model_config
from uer.backbone import Backbone
from uer.encoders import ENCODERS

MODELS = (
    "bert_mlm_sp", "bert_relative_position_scaled_mlm", "bert_residual_attention_mlm", "albert_mlm_sp",
    "megatron_bert_mlm_sp", "xlm_roberta_mlm", "cls_first", "cls_last", "cls_max", "cls_mean", "cls_mlm",
    "gpt2_lm", "gpt2_lm_label_smoothing", "megatron_gpt2_lm", "prefixlm", "prefixlm_prefix_lm_loss",
    "t5", "t5_long_buckets", "t5_v1_1", "bart", "pegasus", "transformer_mt",
    "rnn_lm", "rnn_bidirectional_cls", "lstm_lm", "lstm_bidirectional_cls", "lstm_embedding_layernorm_cls_last",
    "gru_lm", "gru_bidirectional_cls", "birnn_bilm", "bilstm_bilm", "bigru_bilm", "gatedcnn_lm", "gatedcnn_cls_max")

@pytest.mark.parametrize("unpad", ["on", "off"])
@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_are_the_originals(name, unpad, golden):
    folder = golden / "breadth" / "models"
    described = json.loads((folder / f"{name}.json").read_text())
    config = model_config(**described["config"])
    if unpad == "on" and (described["config"]["bidirectional"] or ENCODERS[config.encoder].reads_padding):
        pytest.skip("this encoder reads padding, so it is never left out")
    arrays = {key: torch.from_numpy(value) for key, value in np.load(folder / f"{name}.npz").items()}
    src, seg = arrays["in_src"], arrays["in_seg"]
    if "pos" not in config.embedding:
        config = replace(config, max_seq_length=max(24, src.shape[1]))  # no limit of T5's, whose rows may be longer
    vocab_size = described["vocab_size"]
    backbone = Backbone(config, vocab_size, unpad=unpad).eval()
    weights = {key: value for key, value in load_file(folder / f"{name}.safetensors").items()
               if key.startswith(("embedding.", "encoder."))}
    backbone.load_state_dict(weights)
    layout = backbone._layout(src, seg)
    with torch.no_grad():
        embedded = backbone.embedding(src, layout)
        found = {"out_embedding": embedded, "out_encoder_hidden": backbone.encoder(embedded, layout)}
    for key, value in found.items():
        ours, theirs = layout.scatter(value)[seg > 0], arrays[key][seg > 0]
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max(), key
