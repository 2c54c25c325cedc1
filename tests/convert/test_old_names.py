"""Checkpoints under the names that UER-py had before July 2023 compute what they compute under today's."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.targets.test_golden_targets import batch_of, open_model
from uer.checkpoint.files import load_into, save_weights
from uer.convert.old_names import translated, translation_line
from uer.convert.open import load_uer_weights

# Today's names -> those of before July 2023, applied in this order.
EARLIER = (
    (r"embedding\.word\.embedding", "embedding.word_embedding"), (r"embedding\.pos\.embedding",
                                                                  "embedding.position_embedding"),
    (r"embedding\.seg\.embedding", "embedding.segment_embedding"), (r"^target\.mlm\.linear", "target.mlm_linear"),
    (r"^target\.mlm\.layer_norm", "target.layer_norm"), (r"^target\.sp\.linear", "target.{sp}_linear"),
    (r"^target\.(lm|bilm)\.output_layer", "target.output_layer"), (r"^decoder\.", "target.decoder."),
    (r"^tgt_embedding\.", "target.embedding."))


def earlier(name: str, sp: str) -> str:
    for pattern, old in EARLIER:
        name = re.sub(pattern, old, name)
    return name.format(sp=sp)


@pytest.mark.parametrize("name, sp", [
    ("bert_mlm_sp", "nsp"), ("bert_mlm_sp", "sp"), ("albert_mlm_sp", "sop"), ("gpt2_lm", ""), ("t5", ""),
    ("transformer_mt", ""), ("birnn_bilm", ""), ("gru_lm", "")])
def test_a_model_under_its_earlier_names_computes_the_same(name, sp, golden, tmp_path):
    model, arrays, _ = open_model(golden / "breadth" / "models", name)
    state = model.state_dict()
    old = {earlier(key, sp): value for key, value in state.items()}
    assert len(old) == len(state)
    if name == "transformer_mt":
        old |= {"embedding.pe": torch.ones(9, 1, 8), "target.embedding.pe": torch.ones(9, 1, 8)}
    save_weights(old, tmp_path / "old.bin")
    lines: list[str] = []
    weights = load_uer_weights(tmp_path / "old.bin", lines.append)
    assert list(weights) == list(state) and len(lines) == 1 and "old.bin: UER-py's names of before July" in lines[0]
    with torch.no_grad():
        expected = model.target_inputs(batch_of(arrays))
        for parameter in model.parameters():
            parameter.zero_()
        report = load_into(model, weights, "old.bin")
        assert not (report.missing or report.left_over or report.other_shape)
        found = model.target_inputs(batch_of(arrays))
        for target, head in model.target.items():
            assert torch.equal(head.logits(found[target].hidden), head.logits(expected[target].hidden))
            assert found[target].hidden.abs().sum() > 0


def test_today_s_names_stay_and_nothing_is_said(golden: Path):
    for path in (golden / "breadth" / "models").glob("*.safetensors"):
        names = dict.fromkeys(load_file(path))
        assert list(translated(names)) == list(names) and not translation_line(names, translated(names), "x"), path


def test_the_earlier_names_of_a_dual_embedding(golden: Path):
    content = json.loads((golden / "breadth" / "models" / "sbert_siamese.json").read_text(encoding="utf-8"))
    today = [key for key, _ in dict(content["keys"]).items() if "stream_" not in key]
    old = [earlier(key.replace("embedding.dual.embedding_", "embedding.embedding_"), "") for key in today]
    old = [re.sub(r"(embedding_[01])\.word\.embedding", r"\1.word_embedding", key) for key in old]
    assert set(old) != set(today) and list(translated(dict.fromkeys(old))) == today
