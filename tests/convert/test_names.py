"""Renaming by the table: golden keys, older names, and what is refused.

That weights come back from there is tested for every architecture in tests/contract/test_architectures.py.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from uer.checkpoint.files import load_weights
from uer.convert import ARCHITECTURES
from uer.convert.names import from_hugging_face, from_uer
from uer.errors import UserError

BERT = ARCHITECTURES["bert"].names
SIZES = {"vocab": 97, "hidden": 24, "positions": 31, "segments": 3, "feedforward": 53, "labels": 5, "two": 2}


def random_uer(head: str = "mlm", layers_num: int = 3) -> dict[str, Tensor]:
    """A checkpoint of small unlike sizes, its output layer tied."""
    generator = torch.Generator().manual_seed(5)
    weights = {}
    for row in BERT.rows({"encoder": layers_num}, head):
        shape = [SIZES[dimension] for dimension in row.shape.split()]
        weights[row.uer] = weights[row.tied_to] if row.tied_to else torch.randn(shape, generator=generator)
    return weights


def test_golden_checkpoint_gets_the_golden_keys(golden: Path) -> None:
    weights = load_weights(golden / "original_tiny_300steps.bin")
    expected = json.loads((golden / "huggingface_keys_tiny_mlm.json").read_text())
    converted = from_uer(weights, BERT, "mlm", "x")
    assert {name: list(tensor.shape) for name, tensor in converted.weights.items()} == expected
    assert list(converted.weights) == list(expected)
    assert converted.sizes == {"layers": 2, "vocab": 21128, "hidden": 128, "positions": 512, "segments": 3,
                               "feedforward": 512, "two": 2}


def test_table_knows_every_uer_key_of_every_size(golden: Path) -> None:
    models = json.loads((golden / "state_dict_keys_bert_mlm.json").read_text())
    for keys in models.values():
        layers_num = len([name for name in keys if name.endswith("layer_norm_2.gamma")])
        assert {row.uer for row in BERT.rows({"encoder": layers_num}, "mlm")} == set(keys)


def test_older_hugging_face_files() -> None:
    """gamma and beta, position numbers as a buffer, the output bias twice, the tied weight left out."""
    today = from_uer(random_uer(), BERT, "mlm", "x").weights
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
           for name, tensor in today.items()}
    old["bert.embeddings.position_ids"] = torch.arange(31)[None]
    old["cls.predictions.decoder.bias"] = old["cls.predictions.bias"].clone()
    del old["cls.predictions.decoder.weight"]
    back = from_hugging_face(old, BERT, "mlm", "y").weights
    expected = from_hugging_face(today, BERT, "mlm", "y").weights
    assert all(torch.equal(back[name], tensor) for name, tensor in expected.items())


def test_what_the_head_has_not_is_named() -> None:
    weights = random_uer("bert")
    assert from_uer(weights, BERT, "mlm", "x").left_out == tuple(name for name in weights if ".sp." in name)


@pytest.mark.parametrize(("change", "message"), [
    (lambda w: w.pop("embedding.layer_norm.beta"), r"x.bin: 1 of 59 tensors are missing: embedding.layer_norm.beta"),
    (lambda w: w.pop("target.mlm.linear_1.bias"), r"x.bin: no mlm head: target.mlm.linear_1.bias is missing"),
    (lambda w: w.update({"encoder.transformer.4.layer_norm_1.beta": torch.zeros(24)}), "tensors are missing"),
    (lambda w: w.update({"encoder.linear.weight": torch.zeros(2, 2)}), "no row for encoder.linear.weight"),
    (lambda w: w.update({"encoder.transformer.2.layer_norm_1.gamma": torch.zeros(23)}),
     r"encoder.transformer.2.layer_norm_1.gamma has shape \[23\], .* implies \[24\] \(hidden\)"),
    (lambda w: w.update({"embedding.seg.embedding.weight": torch.zeros(2, 24)}), r"seg.* implies \[3, 24\]"),
    (lambda w: w.update({"embedding.pos.embedding.weight": torch.tensor(1.0)}), r"has shape \[\]"),
    (lambda w: w.update({"embedding.layer_norm.beta": torch.zeros(24, dtype=torch.int64)}), "holds torch.int64"),
])
def test_refused(change: Callable[[dict], object], message: str) -> None:
    weights = random_uer()
    change(weights)
    with pytest.raises(UserError, match=message):
        from_uer(weights, BERT, "mlm", "x.bin")


def test_the_other_side_s_names_are_recognised() -> None:
    theirs = from_uer(random_uer(), BERT, "mlm", "x").weights
    with pytest.raises(UserError, match="already those of Hugging Face"):
        from_uer(theirs, BERT, "mlm", "x")
    with pytest.raises(UserError, match="already those of UER"):
        from_hugging_face(random_uer(), BERT, "mlm", "x")


@pytest.mark.parametrize(("name", "tensor", "message"), [
    ("attn.c_attn.weight", torch.zeros(6, 17), r"has shape \[6, 17\], .* implies \[6, 18\] \(UER's hidden x hidden\)"),
    ("attn.c_attn.bias", torch.zeros(15), r"has shape \[15\], .* implies \[18\] \(UER's hidden\)"),
    ("mlp.c_fc.weight", torch.zeros(13, 6), r"has shape \[13, 6\], .* implies \[6, 13\]"),
    ("mlp.c_fc.weight", torch.tensor(1.0), r"has shape \[\], .* implies \[6, 13\]"),
    ("attn.c_attn.bias", torch.zeros(18, dtype=torch.int32), "holds torch.int32"),
])
def test_a_changed_tensor_that_does_not_fit_is_named(name: str, tensor: Tensor, message: str) -> None:
    """GPT-2 of width 6 and feed-forward 13: the message has the shape that Hugging Face's tensor should have."""
    table, generator = ARCHITECTURES["gpt2"].names, torch.Generator().manual_seed(1)
    sizes = {"vocab": 19, "hidden": 6, "positions": 11, "feedforward": 13}
    weights = {name: torch.randn([sizes[dimension] for dimension in row.shape.split()], generator=generator)
               for row in table.rows({"encoder": 2}, "") for name in row.names("uer")}
    theirs = from_uer(weights, table, "lm", "x").weights
    name = f"transformer.h.1.{name}"
    with pytest.raises(UserError, match=f"{re.escape(name)} {message}"):
        from_hugging_face({**theirs, name: tensor}, table, "lm", "x")
