"""Every tensor of a converted model, bit for bit: hashes of what UER-py's own scripts make of the golden tiny models.

bert, albert and gpt2 are tables of the toolkit. The other tables stand here: they show that a table can say what the
architectures to come need (two stacks, rows before position 0, a bias with one more axis, tensors that are stored
several times).
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from uer.convert import ARCHITECTURES
from uer.convert.changes import AddRows, Chain, DropRows, LeadingAxis
from uer.convert.names import WORD_EMBEDDING, NameTable, Row, Stack, from_hugging_face, from_uer, layer_norm, linear

TARGET_WORDS = "tgt_embedding.word.embedding.weight"


def attention(uer: str, hugging_face: str, names: tuple[str, ...]) -> list[Row]:
    """The rows of query, key, value and output."""
    ours = (*(f"{uer}.linear_layers.{number}" for number in range(3)), f"{uer}.final_linear")
    return [row for name, theirs in zip(ours, names, strict=True)
            for row in linear(name, f"{hugging_face}.{theirs}", "hidden hidden")]


def bart_layer(norms: tuple[str, ...]) -> tuple[Row, ...]:
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    return (*attention("self_attn", "self_attn", projections),
            *(attention("context_attn", "encoder_attn", projections) if len(norms) > 2 else ()),
            *linear("feed_forward.linear_1", "fc1", "feedforward hidden"),
            *linear("feed_forward.linear_2", "fc2", "hidden feedforward"),
            *(row for number, norm in enumerate(norms, start=1) for row in layer_norm(f"layer_norm_{number}", norm)))


def bart() -> NameTable:
    return NameTable(
        body=(Row(WORD_EMBEDDING, "model.shared.weight", "vocab hidden"),
              Row(TARGET_WORDS, "model.decoder.embed_tokens.weight", "vocab hidden", tied_to=WORD_EMBEDDING),
              Row("embedding.pos.embedding.weight", "model.encoder.embed_positions.weight", "positions hidden",
                  AddRows(2)),
              Row("tgt_embedding.pos.embedding.weight", "model.decoder.embed_positions.weight", "positions hidden",
                  AddRows(2)),
              *layer_norm("embedding.layer_norm", "model.encoder.layernorm_embedding"),
              *layer_norm("tgt_embedding.layer_norm", "model.decoder.layernorm_embedding")),
        stacks={"encoder": Stack("encoder.transformer.{n}.", "model.encoder.layers.{n}.",
                                 bart_layer(("self_attn_layer_norm", "final_layer_norm"))),
                "decoder": Stack("decoder.transformer_decoder.{n}.", "model.decoder.layers.{n}.",
                                 bart_layer(("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")),
                                 size="decoder_layers")},
        heads={"lm": (Row("target.lm.output_layer.weight", "lm_head.weight", "vocab hidden", tied_to=WORD_EMBEDDING),
                      Row("target.lm.output_layer.bias", "final_logits_bias", "vocab", LeadingAxis()))},
        prefixes={"uer": ("embedding.", "tgt_embedding.", "encoder.", "decoder."), "hugging_face": ("model.",)},
        duplicates={"model.encoder.embed_tokens.weight": "model.shared.weight"},
    )


def t5_layer(last: int, gated: bool) -> tuple[Row, ...]:
    """No biases, and each part of a layer is numbered: 0 self-attention, (1 cross-attention,) `last` feed-forward."""
    parts = [("self_attn", "layer.0.SelfAttention"), ("context_attn", "layer.1.EncDecAttention")][:last]
    rows = [row for ours, theirs in parts for row in attention(ours, theirs, ("q", "k", "v", "o"))]
    wide = {"linear_gate": "wi_0", "linear_1": "wi_1"} if gated else {"linear_1": "wi"}
    feed_forward = f"layer.{last}.DenseReluDense"
    for ours, theirs in wide.items():
        rows += linear(f"feed_forward.{ours}", f"{feed_forward}.{theirs}", "feedforward hidden")
    rows += linear("feed_forward.linear_2", f"{feed_forward}.wo", "hidden feedforward")
    norms = (Row(f"layer_norm_{n + 1}.weight", f"layer.{n}.layer_norm.weight", "hidden") for n in range(last + 1))
    heads = {"q": "inner hidden", "k": "inner hidden", "v": "inner hidden", "o": "hidden inner"}
    rows = [Row(row.uer, row.hugging_face, heads.get(row.hugging_face.split(".")[-2], row.shape))
            for row in rows if row.hugging_face.endswith("weight")]
    return (*rows, *norms)


def t5(gated: bool) -> NameTable:
    bias = "SelfAttention.relative_attention_bias.weight"
    return NameTable(
        body=(Row(WORD_EMBEDDING, "shared.weight", "vocab hidden"),
              Row(TARGET_WORDS, "decoder.embed_tokens.weight", "vocab hidden", tied_to=WORD_EMBEDDING),
              Row("encoder.relative_pos_emb.relative_attention_bias.weight", f"encoder.block.0.layer.0.{bias}",
                  "buckets heads"),
              Row("decoder.self_pos_emb.relative_attention_bias.weight", f"decoder.block.0.layer.0.{bias}",
                  "buckets heads"),
              Row("encoder.layer_norm.weight", "encoder.final_layer_norm.weight", "hidden"),
              Row("decoder.layer_norm.weight", "decoder.final_layer_norm.weight", "hidden")),
        stacks={"encoder": Stack("encoder.transformer.{n}.", "encoder.block.{n}.", t5_layer(1, gated)),
                "decoder": Stack("decoder.transformer_decoder.{n}.", "decoder.block.{n}.", t5_layer(2, gated),
                                 size="decoder_layers")},
        heads={"lm": (Row("target.lm.output_layer.weight", "lm_head.weight", "vocab hidden",
                          tied_to="" if gated else WORD_EMBEDDING),)},
        prefixes={"uer": ("embedding.", "tgt_embedding.", "encoder.", "decoder."),
                  "hugging_face": ("encoder.", "decoder.")},
        duplicates={"encoder.embed_tokens.weight": "shared.weight"},
    )


def xlm_roberta() -> NameTable:
    """BERT's layers under another prefix; positions and segments as the original converts them."""
    bert = ARCHITECTURES["bert"].names
    changes = {"embedding.pos.embedding.weight": Chain((AddRows(2), DropRows(2, last=True))),
               "embedding.seg.embedding.weight": DropRows(2)}
    return NameTable(
        body=tuple(Row(row.uer, row.hugging_face.replace("bert.", "roberta."), row.shape,
                       changes.get(row.uer, row.change)) for row in bert.body),
        stacks={"encoder": Stack("encoder.transformer.{n}.", "roberta.encoder.layer.{n}.",
                                 bert.stacks["encoder"].rows)},
        heads={"mlm": (*linear("target.mlm.linear_1", "lm_head.dense", "hidden hidden"),
                       *layer_norm("target.mlm.layer_norm", "lm_head.layer_norm"),
                       Row("target.mlm.linear_2.weight", "lm_head.decoder.weight", "vocab hidden",
                           tied_to=WORD_EMBEDDING),
                       Row("target.mlm.linear_2.bias", "lm_head.bias", "vocab"))},
        prefixes={"uer": ("embedding.", "encoder."), "hugging_face": ("roberta.embeddings.", "roberta.encoder.")},
        fixed={"segments": 3},
        duplicates={"lm_head.decoder.bias": "lm_head.bias"},
    )


# the file of hashes -> the model, the table, the head
CASES = {
    "bert": ("bert_mlm_sp", ARCHITECTURES["bert"].names, "bert"),
    "albert": ("albert_mlm_sp", ARCHITECTURES["albert"].names, "albert"),
    "gpt2": ("gpt2_lm", ARCHITECTURES["gpt2"].names, "lm"),
    "bart": ("bart", bart(), "lm"),
    "t5": ("t5", t5(gated=False), "lm"),
    "t5_v1_1": ("t5_v1_1", t5(gated=True), "lm"),
    "xlmroberta": ("xlm_roberta_mlm", xlm_roberta(), "mlm"),
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
    assert found == stored and not converted.left_out
    theirs = {**converted.weights, **{copy: converted.weights[home] for copy, home in table.duplicates.items()}}
    back = from_hugging_face(theirs, table, head, name)
    assert back.sizes == converted.sizes
    changed = [key for key, tensor in weights.items() if not torch.equal(back.weights[key], tensor)]
    assert changed == expected["uer_keys_changed_by_a_round_trip"]


def test_each_stack_counts_its_own_layers() -> None:
    table, generator = bart(), torch.Generator().manual_seed(3)
    sizes = {"vocab": 19, "hidden": 6, "positions": 11, "feedforward": 13}
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
