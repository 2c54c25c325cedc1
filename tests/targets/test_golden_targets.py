"""Losses and logits of whole models beside those of the original toolkit (with the standard LayerNorm)."""

import json

import numpy as np
import pytest
import torch

from tests.tools.golden_models import read_golden
from uer import sections
from uer.config import ModelConfig
from uer.data.batch import IGNORED, Batch, Labels, Side
from uer.layers.layout import padded_layout, unpadded_layout
from uer.model import build_model

FIGURES = "standard_layernorm_eps_1e-12"
DECODERS = ("t5", "t5_long_buckets", "t5_v1_1", "bart", "pegasus", "transformer_mt")
MODELS = ("bert_mlm_sp", "albert_mlm_sp", "megatron_bert_mlm_sp", "bert_relative_position_scaled_mlm",
          "bert_residual_attention_mlm", "gpt2_lm", "gpt2_lm_label_smoothing", "megatron_gpt2_lm", "rnn_lm", "lstm_lm",
          "gru_lm", "gatedcnn_lm", "birnn_bilm", "bilstm_bilm", "bigru_bilm", "cls_first", "cls_last", "cls_mean",
          "cls_max", "cls_mlm", "prefixlm", "prefixlm_prefix_lm_loss", "lstm_embedding_layernorm_cls_last",
          "gatedcnn_cls_max", "gru_bidirectional_cls", "lstm_bidirectional_cls", "rnn_bidirectional_cls", *DECODERS)


def open_model(folder, name, **others):
    """The model, the arrays, and the figures; `others` are settings that differ from the file's."""
    weights, content = read_golden(folder, name)
    settings = {key: value for key, value in content["config"].items() if key != "data_processor"} | others
    model = build_model(sections.from_json(ModelConfig, settings, name), content["vocab_size"],
                        tgt_vocab_size=content.get("tgt_vocab_size")).eval()
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == dict(content["keys"])
    model.load_state_dict(weights)
    arrays = {key: torch.from_numpy(value) for key, value in np.load(folder / f"{name}.npz").items()}
    return model, arrays, content[FIGURES]


def batch_of(arrays):
    """The golden batch as ours: labels only where the target is not [PAD]."""
    def wanted(values):
        return torch.where(values > 0, values.long(), IGNORED)

    labels = {}
    rows = torch.zeros(len(arrays["in_src"]), 1, dtype=torch.int64)  # the position of a row's label
    if "in_tgt_mlm" in arrays or arrays.get("in_tgt", rows[0]).dim() == 2:
        positions = torch.arange(arrays["in_src"].shape[1]).expand_as(arrays["in_src"])
        values = arrays.get("in_tgt_mlm", arrays.get("in_tgt"))
        labels |= {"mlm": Labels(wanted(values), positions), "lm": Labels(wanted(values))}
    if "in_tgt_sp" in arrays:
        labels["sp"] = Labels(arrays["in_tgt_sp"].long()[:, None], rows)
    if "lm" not in labels or "in_tgt_cls" in arrays:
        labels["cls"] = Labels(arrays.get("in_tgt_cls", arrays.get("in_tgt", rows)).long().view(-1, 1), rows)
    if "in_tgt_forward" in arrays:
        both = torch.stack([arrays["in_tgt_forward"], arrays["in_tgt_backward"]], dim=2).long()
        labels["bilm"] = Labels(torch.where(arrays["in_seg"][:, :, None] > 0, both, IGNORED))
    src, tgt = Side(arrays["in_src"].long(), arrays["in_seg"].long()), None
    if "in_tgt_in" in arrays:
        tgt = Side(arrays["in_tgt_in"].long(), arrays["in_tgt_seg"].long())
        labels["lm"] = Labels(wanted(arrays["in_tgt_out"]), side="tgt")
    return Batch(src, labels, torch.arange(len(arrays["in_src"])), tgt)


def close(ours, theirs):
    """Within 1e-5 of the largest value."""
    return (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("unpad", ["on", "off"])
def test_figures(golden, name, unpad):
    model, arrays, figures = open_model(golden / "breadth" / "models", name)
    model.unpad = unpad
    batch = batch_of(arrays)
    with torch.no_grad():
        output = model(batch)
        inputs = model.target_inputs(batch)
    mended = {key.removeprefix("mended_"): value for key, value in figures.items() if key.startswith("mended_")}
    figures = {**figures, **mended}
    assert output.loss.item() == pytest.approx(figures["loss"], rel=1e-5)
    for target, metrics in output.metrics.items():
        prefix = f"{target}_" if len(output.metrics) > 1 else ""
        for metric, (total, count) in metrics.items():
            part = metric.partition("_")[2]
            figure = f"{prefix}{part}_" if part else prefix
            if metric.startswith("loss") and f"{figure}loss" in figures:
                assert (total / count).item() == pytest.approx(figures[f"{figure}loss"], rel=1e-5)
            if metric.startswith("acc") and f"{figure}correct" in figures:
                assert total.item() == figures[f"{figure}correct"]
    if "out_mlm_logits" in arrays and unpad == "on":
        chosen = batch.labels["mlm"].wanted()
        logits = model.target["mlm"].logits(model.encode(batch.src.values, batch.src.seg)[chosen])
        assert close(logits, arrays["out_mlm_logits"])
    logits = arrays.get("out_cls_logits", arrays.get("out_logits"))
    if "cls" in model.target:
        assert close(model.target["cls"].logits(inputs["cls"].hidden).sort(0).values, logits.sort(0).values)
    if "out_sp_logits" in arrays and unpad == "on":
        assert close(model.target["sp"].logits(inputs["sp"].hidden).sort(0).values,
                     arrays["out_sp_logits"].sort(0).values)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("unpad", ["on", "off"])
@torch.no_grad()
def test_the_target_side(golden, name, unpad):
    """Embeddings, hidden states and logits of encoder-decoders."""
    model, arrays, _ = open_model(golden / "breadth" / "models", name)
    model.unpad = unpad
    batch = batch_of(arrays)
    seen = {}
    model.tgt_embedding.register_forward_hook(lambda module, inputs, output: seen.update(tgt_embedding=output))
    model.encoder.register_forward_hook(lambda module, inputs, output: seen.update(encoder_hidden=output))
    model.decoder.register_forward_hook(lambda module, inputs, output: seen.update(decoder_hidden=output))
    model(batch)
    seen["logits"] = model.target["lm"].logits(seen["decoder_hidden"])
    for what, found in seen.items():
        side = batch.src if what == "encoder_hidden" else batch.tgt
        layout = (unpadded_layout if unpad == "on" else padded_layout)(side.seg)
        assert close(layout.scatter(found)[side.seg > 0], arrays[f"out_{what}"][side.seg > 0]), what


@pytest.mark.parametrize("name", ["bart", "pegasus"])
@torch.no_grad()
def test_another_epsilon_of_the_layer_norms(golden, name):
    model, arrays, _ = open_model(golden / "breadth" / "models", name, layernorm_eps=1e-5)
    model.unpad = "off"
    content = json.loads((golden / "breadth" / "models" / f"{name}.json").read_text(encoding="utf-8"))
    batch = batch_of(arrays)
    loss = content["standard_layernorm_eps_1e-05"]["mended_loss"]
    assert model(batch).loss.item() == pytest.approx(loss, rel=1e-6)
    seen = []
    model.decoder.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(batch)
    logits = model.target["lm"].logits(seen[0]).view(arrays["out_logits_eps_1e-05"].shape)
    assert close(logits[batch.tgt.seg > 0], arrays["out_logits_eps_1e-05"][batch.tgt.seg > 0])
