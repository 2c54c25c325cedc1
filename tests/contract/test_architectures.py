"""What every architecture of the table keeps: names that are unique on both sides, and exact ways there and back."""

import contextlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from uer.config import ModelConfig
from uer.convert import ARCHITECTURES, Architecture
from uer.convert.changes import Chain, Change, DropRows, OneSegment
from uer.convert.folder import stored_weights, with_copies
from uer.convert.hugging_face_files import HuggingFaceModel, read_hugging_face, write_safetensors
from uer.convert.names import Row, Side, fits, from_hugging_face, from_uer, measure, tidy
from uer.convert.open import convert_hugging_face
from uer.errors import UserError
from uer.targets import TARGETS

EVERY = [pytest.param(architecture, id=name) for name, architecture in ARCHITECTURES.items()]
HEADS = [pytest.param(architecture, head, id=f"{name}-{head}") for name, architecture in ARCHITECTURES.items()
         for head in architecture.classes]
LAYERS = {"encoder": 3, "decoder": 2}
CONFIG = ModelConfig(hidden_size=42, emb_size=42, heads_num=6, layers_num=LAYERS["encoder"], feedforward_size=53,
                     max_seq_length=31, hidden_act="relu", dropout=0.3)

# Entries that are told apart from another one of the same model_type by their tensors (t5) or by their script (sbert).
MODEL_TYPES = {"t5-v1_1": "t5", "sbert": "bert"}
# The head of transformers' XLM-RoBERTa has gelu whatever config.json says, so that is all its entry has.
ACTIVATIONS = {"xlm-roberta": "gelu", "bloom": "gelu_fast"}
# What is compared where the model has no target of pretraining: its hidden states.
ENCODED = {"sbert": {"hidden"}}
# Other entries that read an entry's weights as well, on each side.
ALSO_FITS: dict[Side, dict[str, set[str]]] = {
    # One model of UER: its tokenizer and the user say which of the two Hugging Face's it becomes.
    "uer": {"bert": {"xlm-roberta"}, "xlm-roberta": {"bert"}},
    # A folder of sentence-transformers holds a BERT without a head, and may be opened as either.
    "hugging_face": {"sbert": {"bert"}, "bert without a head": {"sbert"}},
}


def rows_of(architecture: Architecture, head: str) -> list[Row]:
    return architecture.names.rows(LAYERS, head)


def random_weights(architecture: Architecture, head: str) -> dict[str, Tensor]:
    """A UER checkpoint in which every dimension has another size; tied tensors are equal.

    But for the attention's `inner` width, which differs from `hidden` only where the weights tell the number of heads.
    """
    rows = rows_of(architecture, head)
    inner = 30 if any("heads" in row.shape.split() for row in rows) else 42
    sizes = {"hidden": 42, "vocab": 97, "positions": 31, "feedforward": 53, "heads": 6, "inner": inner, "kv": 14,
             **architecture.names.fixed}
    for row in rows:
        for dimension in row.shape.split():
            sizes.setdefault(dimension, 11 + len(sizes))
    generator, weights = torch.Generator().manual_seed(5), {}
    for row in rows:
        shape = [sizes[dimension] for dimension in row.shape.split()]
        for name in row.names("uer"):
            weights[name] = weights[row.tied_to] if row.tied_to else torch.randn(shape, generator=generator)
    return weights


def config_of(architecture: Architecture, eps: float | None = None) -> ModelConfig:
    """`CONFIG` with an activation that this architecture has, and with its own epsilon where it has only one."""
    return replace(CONFIG, hidden_act=ACTIVATIONS.get(name_of(architecture), CONFIG.hidden_act),
                   layernorm_eps=architecture.layernorm_eps or eps)


def name_of(architecture: Architecture) -> str:
    return next(name for name, one in ARCHITECTURES.items() if one is architecture)


def settings_of(architecture: Architecture, head: str, tied: bool = True, eps: float | None = None) -> ModelConfig:
    """`config_of` an architecture, completed."""
    sizes = measure(random_weights(architecture, head), architecture.names, "uer", "x")
    config = config_of(architecture, eps)
    return architecture.model_config(sizes, None, head, tied, "x", {name: getattr(config, name) for name in (
        "heads_num", "layers_num", "hidden_act", "dropout", "max_seq_length", "layernorm_eps")})


def with_setting(config: ModelConfig, name: str, value: object) -> ModelConfig:
    """The settings with another value of one, which may be a chosen target's."""
    own = hasattr(config, name)
    return replace(config, **{name: value} if own else {"members": {**config.members, name: value}})


def without_lost_rows(change: Change, tensor: Tensor) -> Tensor:
    """UER's tensor as it comes back from Hugging Face's: what that has no row for is zeros, or the first segment's."""
    if isinstance(change, Chain):
        for part in change.changes:
            tensor = without_lost_rows(part, tensor)
    if isinstance(change, DropRows):
        lost = torch.arange(len(tensor)) >= len(tensor) - change.count
        return tensor.masked_fill((lost if change.last else lost.flip(0))[:, None], 0.0)
    return torch.stack([torch.zeros_like(tensor[0]), tensor[1], tensor[1]]) if change == OneSegment() else tensor


@pytest.mark.parametrize(("name", "architecture"), ARCHITECTURES.items())
def test_an_entry_says_all_that_a_conversion_needs(name: str, architecture: Architecture) -> None:
    assert architecture.name == MODEL_TYPES.get(name, name)
    assert architecture.names.heads.keys() == architecture.classes.keys() >= architecture.outputs.keys()
    known = {*TARGETS, *ENCODED.get(name, ())}
    assert all(target in known for outputs in architecture.outputs.values() for target in outputs)
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
    """Exactly; but for segments and positions that Hugging Face does not have, which no model reads."""
    weights, table = random_weights(architecture, head), architecture.names
    there = from_uer(weights, table, head, "x")
    back = from_hugging_face(there.weights, table, head, "y")
    again = from_uer(back.weights, table, head, "z")
    assert back.weights.keys() == weights.keys() and back.sizes == there.sizes and not back.left_out
    assert fits(weights, table, "uer") and fits(there.weights, table, "hugging_face")
    # UER's rows that Hugging Face does not have: padding's segment, those of further texts, and the last positions.
    lost = {"segments": [0, *range(1 + architecture.segments, 3)],
            "positions": [*range(31 - architecture.unused_positions, 31)]}
    for row in rows_of(architecture, head):
        for name in row.names("uer"):
            assert torch.equal(back.weights[name], without_lost_rows(row.change, weights[name]))
            changed = (back.weights[name] != weights[name]).view(len(weights[name]), -1).any(1)
            assert changed.nonzero().flatten().tolist() == lost.get(row.shape.split()[0], [])
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in there.weights.items())
    storages = [tensor.untyped_storage().data_ptr() for tensor in back.weights.values()]
    once = len(table.tied_rows(head)) + len(table.shared_rows())
    assert len(set(storages)) == len(storages) - once and all(map(Tensor.is_contiguous, back.weights.values()))


@pytest.mark.parametrize("architecture", [each for each in EVERY if not each.values[0].by_head])
def test_folders_of_every_age_are_read(architecture: Architecture, tmp_path: Path) -> None:
    """Safetensors, torch's file of today, and the pickle of before 2020: the same bits, with copies and buffers.

    Those whose rows are ordered by heads need whole heads, which these random sizes do not have:
    tests/scripts/test_convert_modern.py converts them there and back.
    """
    head, table = next(iter(architecture.outputs)), architecture.names
    config = settings_of(architecture, head)
    there = from_uer(random_weights(architecture, head), table, head, "x").weights
    stored = {**with_copies(there, table), **architecture.computed(config)}
    stored |= {f"some{ending}": torch.arange(3) for ending in table.buffers}
    expected = from_hugging_face(there, table, head, "y").weights
    content = architecture.config_json(config, 97, head)
    for kind in ("safetensors", "zip", "pickle"):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(content))
        if kind == "safetensors":
            write_safetensors({**stored_weights(there, table, head), **architecture.computed(config)},
                              folder / "model.safetensors")
        else:
            torch.save(stored, folder / "pytorch_model.bin", _use_new_zipfile_serialization=kind == "zip")
        model = read_hugging_face(folder)
        tidied = HuggingFaceModel(architecture.tidied(model.weights, model.config, "x"), model.config)
        source = convert_hugging_face(tidied, architecture, str(folder), head)
        found = {name: source.converted.weights[name] for name in expected}
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        assert source.config.layers_num == LAYERS["encoder"]


@pytest.mark.parametrize("architecture", EVERY)
def test_a_layer_with_another_tensor_does_not_fit(architecture: Architecture) -> None:
    weights, table = random_weights(architecture, ""), architecture.names
    theirs = from_uer(weights, table, "", "x").weights
    for stack in table.stacks.values():
        assert not fits({**weights, f"{stack.uer.format(n=0)}other.weight": torch.ones(2)}, table, "uer")
        assert not fits({**theirs, f"{stack.hugging_face.format(n=0)}other.weight": torch.ones(2)}, table,
                        "hugging_face")


@pytest.mark.parametrize(("architecture", "head"), HEADS)
def test_a_tied_tensor_may_be_left_out(architecture: Architecture, head: str) -> None:
    weights, table = random_weights(architecture, head), architecture.names
    there = from_uer(weights, table, head, "x").weights
    twice = {row.hugging_face for row in (*table.tied_rows(head), *table.shared_rows())}
    left = {name: tensor for name, tensor in there.items() if name not in twice}
    back = from_hugging_face(left, table, head, "y").weights
    assert all(torch.equal(back[name], tensor) for name, tensor in from_hugging_face(there, table, head, "y").weights
               .items())


@pytest.mark.parametrize(("tied", "eps"), [(True, None), (False, 3e-7)])
@pytest.mark.parametrize(("architecture", "head"), HEADS)
def test_settings_come_back(architecture: Architecture, head: str, tied: bool, eps: float | None) -> None:
    """Where a file always holds the output layer, Hugging Face's `tie_word_embeddings` is false; the tensors tell."""
    sizes = measure(random_weights(architecture, head), architecture.names, "uer", "x")
    config = settings_of(architecture, head, tied, eps)
    content = json.loads(json.dumps(architecture.config_json(config, sizes["vocab"], head, {"pad_id": 4}, ("a", "b"))))
    assert content["model_type"] == architecture.name and content["architectures"] == [architecture.classes[head]]
    assert content["pad_token_id"] == (architecture.padding_id or 4) and content["id2label"] == {"0": "a", "1": "b"}
    assert content["tie_word_embeddings"] is (tied and not architecture.names.stores_output_layer)
    told = architecture.read_config(content, "x")
    architecture.require_sizes(content, sizes, "x")
    assert architecture.model_config(sizes, None, head, tied, "x", told) == config
    assert architecture.model_config(sizes, config, head, tied, "x") == config
    kept = ("heads_num", "layers_num", "hidden_act", "dropout", "feedforward_size", "max_seq_length", "hidden_size",
            "layernorm_eps")
    assert {name: asdict(config)[name] for name in kept} == {
        name: asdict(config_of(architecture, eps))[name] for name in kept}
    assert config.attention_head_size == (5 if sizes.get("inner", 42) == 30 else None)


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
            wrong = with_setting(config, row.uer, not row.must if isinstance(row.must, bool) else "other")
            with pytest.raises(UserError, match=f"^x: {row.uer} is "):
                architecture.model_config(sizes, wrong, head, True, "x")
        elif not row.uer and row.only != "write":
            with pytest.raises(UserError, match=f"^x: {row.hugging_face} is "):
                architecture.read_config({row.hugging_face: "other"}, "x")
    with pytest.raises(UserError, match="model_type is other"):
        architecture.read_config({"model_type": "other"}, "x")
    with pytest.raises(UserError, match="vocab_size 1, but the weights have 97"):
        architecture.require_sizes({"vocab_size": 1}, sizes, "x")


def reading(weights: dict[str, Tensor], side: Side) -> set[str]:
    """The entries whose names and sizes these weights have, read as a file that has no config.json."""
    found = set()
    for name, one in ARCHITECTURES.items():
        tidied = tidy(weights, one.names) if side == "hugging_face" else weights
        if fits(tidied, one.names, side):
            with contextlib.suppress(UserError):
                measure(tidied, one.names, side, "x")
                found.add(name)
    return found


@pytest.mark.parametrize(("name", "architecture"), ARCHITECTURES.items())
def test_no_weights_fit_two_architectures(name: str, architecture: Architecture) -> None:
    """Where config.json is missing, names and sizes tell; `ALSO_FITS` has the entries that read the same model."""
    weights = random_weights(architecture, next(iter(architecture.outputs)))
    theirs = from_uer(weights, architecture.names, next(iter(architecture.outputs)), "x").weights
    alone = from_uer(weights, architecture.names, "", "x").weights
    alone = {key.removeprefix(architecture.names.base_prefix): tensor for key, tensor in alone.items()}
    also = ALSO_FITS["hugging_face"]
    assert reading(weights, "uer") == {name, *ALSO_FITS["uer"].get(name, ())}
    assert reading(theirs, "hugging_face") == {name, *also.get(name, ())}
    assert reading(alone, "hugging_face") == {name, *also.get(name, ()), *also.get(f"{name} without a head", ())}
