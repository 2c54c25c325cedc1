"""Checkpoints of UER without settings beside them: their architecture is known by their names, or they are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from uer.checkpoint.files import load_into, save_weights
from uer.config import ModelConfig
from uer.convert.open import open_checkpoint, vocab_size
from uer.errors import UserError
from uer.finetuning.labels import LabelSet
from uer.finetuning.tasks.siamese import Siamese
from uer.model import build_model

SIZES: dict[str, Any] = {"emb_size": 64, "hidden_size": 64, "feedforward_size": 32, "heads_num": 1, "layers_num": 2,
                         "max_seq_length": 16, "dropout": 0.0}
BERT = {"embedding": ("word", "pos", "seg")}
GPT2 = {"embedding": ("word", "pos"), "target": ("lm",), "mask": "causal", "layernorm_positioning": "pre",
        "remove_embedding_layernorm": True, "hidden_act": "gelu_fast"}


def checkpoint(path: Path, **settings: Any) -> torch.nn.Module:
    """Save a random model, and return it."""
    torch.manual_seed(5)
    model = build_model(ModelConfig(**{**SIZES, **settings}), 30).eval()
    save_weights(model.state_dict(), path)
    return model


@pytest.mark.parametrize("settings", [BERT, GPT2], ids=["bert", "gpt2"])
def test_names_tell_the_architecture(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = checkpoint(tmp_path / "x.bin", **settings)
    weights, config = open_checkpoint(tmp_path / "x.bin", None)
    again = build_model(config, 30).eval()
    assert load_into(again, weights, "x.bin").lines() == []
    src = torch.arange(5, 25).reshape(2, 10)
    with torch.no_grad():
        assert torch.equal(again.encode(src, torch.ones_like(src)), model.encode(src, torch.ones_like(src)))


@pytest.mark.parametrize(("settings", "message"), [
    ({**BERT, "target": ("lm",), "mask": "causal"}, "BERT with the target lm, whose mask they do not tell"),
    ({**BERT, "layernorm_positioning": "pre"}, "nearest is BERT: encoder.layer_norm.gamma, encoder.layer_norm.beta are "
                                               "no part of it"),
    ({**GPT2, "relative_position_embedding": True}, "nearest is GPT-2: .*relative_pos_emb.* is no part of it"),
    ({"embedding": ("word",), "encoder": "lstm", "target": ("lm",)}, "are missing; .*rnn.* are no part of it"),
])
def test_other_models_need_their_settings(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    checkpoint(tmp_path / "x.bin", **settings)
    with pytest.raises(UserError, match=message + ".*; no settings lie beside it; give them by --config_path") as found:
        open_checkpoint(tmp_path / "x.bin", None)
    assert "\n" not in str(found.value)
    assert open_checkpoint(tmp_path / "x.bin", ModelConfig(**{**SIZES, **settings}))[1].layers_num == 2


def test_a_dual_encoder_is_named(tmp_path: Path) -> None:
    """Not as an unknown architecture, and not as one whose settings were forgotten."""
    stream = {**BERT, "encoder": "transformer"}
    config = ModelConfig(**SIZES, encoder="dual", embedding=("dual",), stream_0=stream, stream_1=stream)
    weights = Siamese(LabelSet(("0", "1"))).build(config, 30).state_dict()
    save_weights(weights, tmp_path / "x.bin")
    message = "x.bin: a dual encoder, where one encoder is needed: give the folder that scripts/convert_sbert_from_uer"
    with pytest.raises(UserError, match=message):
        open_checkpoint(tmp_path / "x.bin", None)
    with pytest.raises(UserError, match=message):
        vocab_size(weights, str(tmp_path / "x.bin"))
