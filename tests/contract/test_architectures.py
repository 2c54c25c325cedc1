"""What every architecture of the table keeps: names that are unique on both sides, and exact ways there and back."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from uer.config import ModelConfig
from uer.convert import ARCHITECTURES, Architecture
from uer.convert.names import Row, fits, from_hugging_face, from_uer, measure
from uer.errors import UserError
from uer.targets import PLANNED, TARGETS

EVERY = [pytest.param(architecture, id=name) for name, architecture in ARCHITECTURES.items()]
HEADS = [pytest.param(architecture, head, id=f"{name}-{head}") for name, architecture in ARCHITECTURES.items()
         for head in architecture.classes]
LAYERS = 3
CONFIG = ModelConfig(hidden_size=42, emb_size=42, heads_num=6, layers_num=LAYERS, feedforward_size=53,
                     max_seq_length=31, hidden_act="relu", dropout=0.3)


def rows_of(architecture: Architecture, head: str) -> list[Row]:
    return architecture.names.rows(dict.fromkeys(architecture.names.stacks, LAYERS), head)


def random_weights(architecture: Architecture, head: str) -> dict[str, Tensor]:
    """A UER checkpoint in which every dimension has another size; tied tensors are equal."""
    rows = rows_of(architecture, head)
    sizes = {"hidden": 42, "vocab": 97, "positions": 31, "feedforward": 53, **architecture.names.fixed}
    for row in rows:
        for dimension in row.shape.split():
            sizes.setdefault(dimension, 11 + len(sizes))
    generator, weights = torch.Generator().manual_seed(5), {}
    for row in rows:
        shape = [sizes[dimension] for dimension in row.shape.split()]
        for name in row.names("uer"):
            weights[name] = weights[row.tied_to] if row.tied_to else torch.randn(shape, generator=generator)
    return weights


def settings_of(architecture: Architecture, head: str, tied: bool = True) -> ModelConfig:
    """`CONFIG` as this architecture has it."""
    sizes = measure(random_weights(architecture, head), architecture.names, "uer", "x")
    return architecture.model_config(sizes, None, head, tied, "x", {
        name: getattr(CONFIG, name) for name in ("heads_num", "layers_num", "hidden_act", "dropout")})


@pytest.mark.parametrize(("name", "architecture"), ARCHITECTURES.items())
def test_an_entry_says_all_that_a_conversion_needs(name: str, architecture: Architecture) -> None:
    assert architecture.name == name
    assert architecture.names.heads.keys() == architecture.classes.keys() >= architecture.outputs.keys()
    assert all(target in {*TARGETS, *PLANNED} for outputs in architecture.outputs.values() for target in outputs)
    src, seg = torch.tensor([[5, 6, 0], [7, 8, 9]]), torch.tensor([[1, 1, 0], [1, 2, 2]])
    inputs = architecture.inputs(src, seg)
    assert torch.equal(inputs["input_ids"], src)
    assert torch.equal(inputs["attention_mask"], torch.tensor([[1, 1, 0], [1, 1, 1]]))


@pytest.mark.parametrize(("architecture", "head"), HEADS)
def test_no_name_stands_twice(architecture: Architecture, head: str) -> None:
    rows = rows_of(architecture, head)
    for side in ("uer", "hugging_face"):
        found = [name for row in rows for name in row.names(side)]
        assert len(set(found)) == len(found)
    for row in rows:
        assert not row.hugging_face.endswith(architecture.names.buffers)
        assert row.hugging_face not in architecture.names.duplicates
        assert not row.tied_to or row.tied_to in architecture.names.row_of(row.tied_to).names("uer")


@pytest.mark.parametrize(("architecture", "head"), HEADS)
def test_every_change_has_an_inverse(architecture: Architecture, head: str) -> None:
    weights = random_weights(architecture, head)
    for row in rows_of(architecture, head):
        tensors = tuple(weights[name] for name in row.names("uer"))
        theirs = row.converted(tensors, "hugging_face")
        back = row.converted(theirs, "uer")
        assert len(theirs) == 1 and [tensor.shape for tensor in back] == [tensor.shape for tensor in tensors]
        assert torch.equal(row.converted(back, "hugging_face")[0], theirs[0])


@pytest.mark.parametrize(("architecture", "head"), HEADS)
def test_weights_come_back(architecture: Architecture, head: str) -> None:
    """Exactly; but for rows that Hugging Face does not have, which no model reads: they are zeros."""
    weights, table = random_weights(architecture, head), architecture.names
    there = from_uer(weights, table, head, "x")
    back = from_hugging_face(there.weights, table, head, "y")
    again = from_uer(back.weights, table, head, "z")
    assert back.weights.keys() == weights.keys() and back.sizes == there.sizes and not back.left_out
    assert fits(weights, table, "uer") and fits(there.weights, table, "hugging_face")
    for name, tensor in weights.items():
        same = (back.weights[name] == tensor) | (back.weights[name] == 0)
        assert same.all() and (torch.equal(back.weights[name], tensor) or name == "embedding.seg.embedding.weight")
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in there.weights.items())
    storages = [tensor.untyped_storage().data_ptr() for tensor in back.weights.values()]
    tied = len(table.tied_rows(head))
    assert len(set(storages)) == len(storages) - tied and all(map(Tensor.is_contiguous, back.weights.values()))


@pytest.mark.parametrize(("architecture", "head"), HEADS)
def test_a_tied_tensor_may_be_left_out(architecture: Architecture, head: str) -> None:
    weights, table = random_weights(architecture, head), architecture.names
    there = from_uer(weights, table, head, "x").weights
    left = {name: tensor for name, tensor in there.items() if name not in {row.hugging_face
                                                                           for row in table.tied_rows(head)}}
    back = from_hugging_face(left, table, head, "y").weights
    assert all(torch.equal(back[name], tensor) for name, tensor in from_hugging_face(there, table, head, "y").weights
               .items())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("architecture", "head"), HEADS)
def test_settings_come_back(architecture: Architecture, head: str, tied: bool) -> None:
    sizes = measure(random_weights(architecture, head), architecture.names, "uer", "x")
    config = settings_of(architecture, head, tied)
    content = json.loads(json.dumps(architecture.config_json(config, sizes["vocab"], head, {"pad_id": 4}, ("a", "b"))))
    assert content["model_type"] == architecture.name and content["architectures"] == [architecture.classes[head]]
    assert content["pad_token_id"] == 4 and content["id2label"] == {"0": "a", "1": "b"}
    assert content["tie_word_embeddings"] is tied
    told = architecture.told(content, "x")
    architecture.require_sizes(content, sizes, "x")
    assert architecture.model_config(sizes, None, head, tied, "x", told) == config
    assert architecture.model_config(sizes, config, head, tied, "x") == config
    kept = ("heads_num", "layers_num", "hidden_act", "dropout", "feedforward_size", "max_seq_length", "hidden_size")
    assert {name: asdict(config)[name] for name in kept} == {name: asdict(CONFIG)[name] for name in kept}


@pytest.mark.parametrize("architecture", EVERY)
def test_settings_that_contradict_are_refused(architecture: Architecture) -> None:
    head = next(iter(architecture.outputs))
    sizes = measure(random_weights(architecture, head), architecture.names, "uer", "x")
    config = settings_of(architecture, head)
    for row in architecture.settings:
        if row.size and row.uer and hasattr(config, row.uer):
            wrong = replace(config, **{row.uer: getattr(config, row.uer) + 1})
            with pytest.raises(UserError, match=f"^x: {row.uer} is "):
                architecture.model_config(sizes, wrong, head, True, "x")
        elif row.uer and not row.hugging_face and row.only != "write" and row.is_for(head):
            wrong = replace(config, **{row.uer: not row.must if isinstance(row.must, bool) else "other"})
            with pytest.raises(UserError, match=f"^x: {row.uer} is "):
                architecture.model_config(sizes, wrong, head, True, "x")
        elif not row.uer and row.only != "write":
            with pytest.raises(UserError, match=f"^x: {row.hugging_face} is "):
                architecture.told({row.hugging_face: "other"}, "x")
    with pytest.raises(UserError, match="model_type is other"):
        architecture.told({"model_type": "other"}, "x")
    with pytest.raises(UserError, match="vocab_size 1, but the weights have 97"):
        architecture.require_sizes({"vocab_size": 1}, sizes, "x")


@pytest.mark.parametrize("architecture", EVERY)
def test_no_weights_fit_two_architectures(architecture: Architecture) -> None:
    """Where config.json is missing, the names tell."""
    head = next(iter(architecture.outputs))
    weights = random_weights(architecture, head)
    theirs = from_uer(weights, architecture.names, head, "x").weights
    for other in ARCHITECTURES.values():
        assert fits(theirs, other.names, "hugging_face") == (other is architecture)
        assert fits(weights, other.names, "uer") == (other is architecture)
