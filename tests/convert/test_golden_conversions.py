"""Every tensor of a converted model, bit for bit: hashes of what UER-py's scripts make of the golden tiny models."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from uer.config import ModelConfig
from uer.convert import ARCHITECTURES
from uer.convert.names import from_hugging_face, from_uer
from uer.embeddings.position import SinusoidalPositionEmbedding

# the file of hashes -> the model, the table, the head
CASES = {
    "bert": ("bert_mlm_sp", ARCHITECTURES["bert"].names, "bert"),
    "albert": ("albert_mlm_sp", ARCHITECTURES["albert"].names, "albert"),
    "gpt2": ("gpt2_lm", ARCHITECTURES["gpt2"].names, "lm"),
    "bart": ("bart", ARCHITECTURES["bart"].names, "lm"),
    "t5": ("t5", ARCHITECTURES["t5"].names, "lm"),
    "t5_v1_1": ("t5_v1_1", ARCHITECTURES["t5-v1_1"].names, "lm"),
    "pegasus": ("pegasus", ARCHITECTURES["pegasus"].names, "lm"),
    "xlmroberta": ("xlm_roberta_mlm", ARCHITECTURES["xlm-roberta"].names, "mlm"),
    "megatron_bert": ("megatron_bert_mlm_sp", ARCHITECTURES["bert"].names, "bert"),
    "megatron_gpt2": ("megatron_gpt2_lm", ARCHITECTURES["gpt2"].names, "lm"),
}


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.float().contiguous().numpy().tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("name", list(CASES))
def test_tensors_are_those_of_the_original_conversion(golden: Path, name: str) -> None:
    model, table, head = CASES[name]
    breadth = golden / "breadth"
    weights = load_file(breadth / "models" / f"{model}.safetensors")
    expected = json.loads((breadth / "conversions" / f"{name}.json").read_text())
    stored = {key: (tensor["shape"], tensor["sha256"]) for key, tensor in expected["huggingface"].items()
              if tensor["from"]}  # what comes from nowhere is a buffer
    converted = from_uer(weights, table, head, model)
    found = {key: (list(tensor.shape), digest(tensor)) for key, tensor in converted.weights.items()}
    found |= {copy: found[home] for copy, home in table.duplicates.items() if copy in stored}
    if name == "xlmroberta":  # mended: UER's segment of the first text, not of the second
        segment = digest(weights["embedding.seg.embedding.weight"][1:2])
        stored["roberta.embeddings.token_type_embeddings.weight"] = ([1, 32], segment)
    assert found == stored and not converted.left_out
    theirs = {**converted.weights, **{copy: converted.weights[home] for copy, home in table.duplicates.items()}}
    back = from_hugging_face(theirs, table, head, name)
    assert back.sizes == converted.sizes
    changed = [key for key, tensor in weights.items() if not torch.equal(back.weights[key], tensor)]
    assert changed == expected["uer_keys_changed_by_a_round_trip"]


def test_pegasus_positions_are_those_of_the_original_conversion(golden: Path) -> None:
    config = ModelConfig(emb_size=32, hidden_size=32, max_seq_length=24)
    expected = json.loads((golden / "breadth/conversions/pegasus.json").read_text())["huggingface"]
    for name, tensor in ARCHITECTURES["pegasus"].computed(config).items():
        assert (list(tensor.shape), digest(tensor)) == (expected[name]["shape"], expected[name]["sha256"])
        assert torch.equal(tensor, SinusoidalPositionEmbedding(config, 0).table)


def test_sbert_is_the_first_stream_of_the_dual_encoder(golden: Path) -> None:
    """Mended: the second layer norm after the embedding, and the classifier, are left out. The original converts the
    names of before July 2023; its padding segment is lost on the way too."""
    weights = load_file(golden / "breadth/models/sbert_siamese.safetensors")
    table = ARCHITECTURES["sbert"].names
    expected = json.loads((golden / "breadth/conversions/sbert.json").read_text())
    converted = from_uer(weights, table, "sbert", "sbert")
    assert {key: (list(tensor.shape), digest(tensor)) for key, tensor in converted.weights.items()} == {
        key: (tensor["shape"], tensor["sha256"]) for key, tensor in expected["huggingface"].items()}
    earlier = {name.replace("embedding.dual.", "embedding.") for name in converted.left_out}
    assert earlier == set(expected["uer_keys_lost_on_the_way"])
    back = from_hugging_face(converted.weights, table, "sbert", "sbert").weights
    back |= ARCHITECTURES["sbert"].complete(back)
    tied = json.loads((golden / "breadth/models/sbert_siamese.json").read_text())["tied"]
    changed = [key.replace("dual.", "") for key, tensor in back.items()
               if not torch.equal(tensor, weights[tied.get(key, key)])]
    assert changed == expected["uer_keys_changed_by_a_round_trip"]


def test_each_stack_counts_its_own_layers() -> None:
    table, generator = ARCHITECTURES["bart"].names, torch.Generator().manual_seed(3)
    sizes = {"vocab": 19, "hidden": 6, "positions": 11, "feedforward": 13, "inner": 6}
    rows = [row for row in table.rows({"encoder": 2, "decoder": 5}, "lm") if not row.tied_to]
    weights = {row.uer: torch.randn([sizes[dimension] for dimension in row.shape.split()], generator=generator)
               for row in rows}
    there = from_uer(weights, table, "lm", "x")
    assert there.sizes == {"layers": 2, "decoder_layers": 5, **sizes}
    assert there.weights["model.encoder.embed_positions.weight"].shape == (13, 6)
    assert there.weights["final_logits_bias"].shape == (1, 19)
    back = from_hugging_face(there.weights, table, "lm", "y")
    assert back.sizes == there.sizes
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in weights.items())
