"""BERT and ALBERT under the names of the original TensorFlow releases, by the scripts, with the golden hashes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from uer.checkpoint.files import load_weights, save_weights
from uer.checkpoint.tensorflow import read_tensorflow, write_tensorflow
from uer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# What the released checkpoints call what Hugging Face calls ...: kernels are (inputs, outputs) there.
BERT_LAYER = {
    "attention/self/query": "attention.self.query", "attention/self/key": "attention.self.key",
    "attention/self/value": "attention.self.value", "attention/output/dense": "attention.output.dense",
    "intermediate/dense": "intermediate.dense", "output/dense": "output.dense"}
BERT = {f"bert/encoder/layer_{n}/{name}": f"bert.encoder.layer.{n}.{theirs}"
        for n in range(2) for name, theirs in BERT_LAYER.items()}
INNER, GROUP = "bert/encoder/transformer/group_0/inner_group_0", "albert.encoder.albert_layer_groups.0.albert_layers.0"
ALBERT = {
    "bert/encoder/embedding_hidden_mapping_in": "albert.encoder.embedding_hidden_mapping_in",
    f"{INNER}/attention_1/self/query": f"{GROUP}.attention.query",
    f"{INNER}/attention_1/self/key": f"{GROUP}.attention.key",
    f"{INNER}/attention_1/self/value": f"{GROUP}.attention.value",
    f"{INNER}/attention_1/output/dense": f"{GROUP}.attention.dense",
    f"{INNER}/ffn_1/intermediate/dense": f"{GROUP}.ffn",
    f"{INNER}/ffn_1/intermediate/output/dense": f"{GROUP}.ffn_output"}


def expected(linear: dict[str, str], norms: dict[str, str], prefix: str, predictions: str, order: str) -> dict:
    """TensorFlow's name -> Hugging Face's, and whether it is transposed."""
    embeddings = f"{prefix}.embeddings"
    return {
        **{f"bert/embeddings/{name}": (f"{embeddings}.{name}.weight", False)
           for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")},
        **{f"{name}/kernel": (f"{theirs}.weight", True) for name, theirs in linear.items()},
        **{f"{name}/bias": (f"{theirs}.bias", False) for name, theirs in linear.items()},
        **{f"{name}/gamma": (f"{theirs}.weight", False) for name, theirs in norms.items()},
        **{f"{name}/beta": (f"{theirs}.bias", False) for name, theirs in norms.items()},
        "cls/predictions/output_bias": (f"{predictions}.bias", False),
        "cls/seq_relationship/output_weights": (f"{order}.weight", False),
        "cls/seq_relationship/output_bias": (f"{order}.bias", False)}


BERT_NAMES = expected(
    {**BERT, "bert/pooler/dense": "bert.pooler.dense",
     "cls/predictions/transform/dense": "cls.predictions.transform.dense"},
    {"bert/embeddings/LayerNorm": "bert.embeddings.LayerNorm",
     "cls/predictions/transform/LayerNorm": "cls.predictions.transform.LayerNorm",
     **{f"bert/encoder/layer_{n}/{part}/LayerNorm": f"bert.encoder.layer.{n}.{part.replace('/', '.')}.LayerNorm"
        for n in range(2) for part in ("attention/output", "output")}},
    "bert", "cls.predictions", "cls.seq_relationship")
ALBERT_NAMES = expected(
    {**ALBERT, "bert/pooler/dense": "albert.pooler", "cls/predictions/transform/dense": "predictions.dense"},
    {"bert/embeddings/LayerNorm": "albert.embeddings.LayerNorm", f"{INNER}/LayerNorm": f"{GROUP}.attention.LayerNorm",
     f"{INNER}/LayerNorm_1": f"{GROUP}.full_layer_layer_norm",
     "cls/predictions/transform/LayerNorm": "predictions.LayerNorm"}, "albert", "predictions",
    "sop_classifier.classifier")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """`run("import" or "export", architecture, flags...)` -> what was printed."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import _tensorflow as scripts

    from uer.convert import ARCHITECTURES

    def call(way: str, architecture: str, head: str | None = None, **flags: Any) -> str:
        kind = scripts.TensorflowImportFlags if way == "import" else scripts.TensorflowExportFlags
        flags = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
        getattr(scripts, f"{way}_tensorflow")(ARCHITECTURES[architecture], kind(**flags), head)
        return capsys.readouterr().out

    return call


@pytest.fixture
def tiny(golden: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Writes a golden model and its settings as a UER checkpoint."""
    def write(name: str, change: Callable[[dict[str, Tensor]], object] = lambda weights: None) -> Path:
        models = golden / "breadth" / "models"
        weights = load_file(models / f"{name}.safetensors")
        change(weights)
        save_weights(weights, tmp_path / "uer.bin")
        (tmp_path / "uer.json").write_text(json.dumps(json.loads((models / f"{name}.json").read_text())["config"]))
        return tmp_path / "uer.bin"
    return write


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, dtype="<f4").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(("architecture", "model", "names"), [
    ("bert", "bert_mlm_sp", BERT_NAMES), ("albert", "albert_mlm_sp", ALBERT_NAMES)])
def test_names_hashes_and_the_way_back(run: Callable, tiny: Callable, golden: Path, tmp_path: Path, architecture: str,
                                       model: str, names: dict) -> None:
    """The hashes are those of the golden Hugging Face models; what an optimizer keeps is passed over."""
    checkpoint, out = tiny(model), tmp_path / "out" / "model.ckpt"
    run("export", architecture, input_model_path=checkpoint, config_path=tmp_path / "uer.json", output_model_path=out,
        output_config_path=out.parent / f"{architecture}_config.json", drop_output_layer=True)
    found = read_tensorflow(out)
    hashes = json.loads((golden / "breadth" / "conversions" / f"{architecture}.json").read_text())["huggingface"]
    assert {name: digest(array.T if names[name][1] else array) for name, array in found.items()} == {
        name: hashes[theirs]["sha256"] for name, (theirs, _) in names.items()}

    slots = {f"{name}/{slot}": array for name, array in found.items() for slot in ("adam_m", "adam_v")}
    write_tensorflow({**found, **slots, "global_step": np.array(1000000)}, out)
    printed = run("import", architecture, input_model_path=out.parent, output_model_path=tmp_path / "back.bin",
                  output_config_path=tmp_path / "back.json")
    assert "left out" not in printed
    before, after = load_weights(checkpoint), load_weights(tmp_path / "back.bin")
    segments, output = "embedding.seg.embedding.weight", "target.mlm.linear_2.weight"
    assert torch.equal(after[output], after["embedding.word.embedding.weight"])
    assert not after[segments][0].any() and torch.equal(after[segments][1:], before[segments][1:])
    assert after.keys() == before.keys() | {output}
    assert all(torch.equal(after[name], before[name]) for name in before if name not in (segments, output))
    told, given = (json.loads((tmp_path / name).read_text()) for name in ("back.json", "uer.json"))
    assert {name: told[name] for name in ("heads_num", "layers_num", "hidden_act", "max_seq_length")} == {
        name: given[name] for name in ("heads_num", "layers_num", "hidden_act", "max_seq_length")}


def test_only_512_positions_are_kept(run: Callable, tiny: Callable, tmp_path: Path) -> None:
    longer = torch.arange(520 * 32, dtype=torch.float32).view(520, 32)
    checkpoint = tiny("bert_mlm_sp", lambda weights: weights.update({"embedding.pos.embedding.weight": longer}))
    settings = json.loads((tmp_path / "uer.json").read_text())
    (tmp_path / "uer.json").write_text(json.dumps({**settings, "max_seq_length": 520}))
    printed = run("export", "bert", input_model_path=checkpoint, config_path=tmp_path / "uer.json",
                  output_model_path=tmp_path / "m", output_config_path=tmp_path / "bert_config.json",
                  drop_output_layer=True)
    assert "from 520 positions to 512" in printed
    name = "bert/embeddings/position_embeddings"
    assert np.array_equal(read_tensorflow(tmp_path / "m")[name], longer[:512].numpy())
    assert json.loads((tmp_path / "bert_config.json").read_text())["max_position_embeddings"] == 512
    write_tensorflow({**read_tensorflow(tmp_path / "m"), name: longer.numpy()}, tmp_path / "m")
    assert "from 520" in run("import", "bert", input_model_path=tmp_path / "m", output_model_path=tmp_path / "back.bin")
    assert torch.equal(load_weights(tmp_path / "back.bin")["embedding.pos.embedding.weight"], longer[:512])


@pytest.mark.parametrize(("flags", "change", "message"), [
    ({"layers_num": 3}, {}, r"layers_num is 3, but .*m has 2 layers"),
    ({"head": "bert"}, {"cls/seq_relationship/output_bias": None},
     "--type bert needs the layers of the targets .*cls/seq_relationship/output_bias is missing; --type mlm"),
    ({}, {"bert/embeddings/LayerNorm/beta": None}, "1 of 47 tensors are missing: bert/embeddings/LayerNorm/beta"),
    ({}, {"bert/encoder/layer_1/mixer/kernel": np.zeros(2, np.float32)}, "no row for bert/encoder/layer_1/mixer"),
    ({}, {"bert/encoder/layer_1/output/dense/kernel": np.zeros((32, 48), np.float32)},
     r"output/dense/kernel has shape \[32, 48\], .* implies \[48, 32\]"),
    ({"architecture": "albert", "layers_num": 2}, {}, "model_type is bert; only albert can be converted"),
])
def test_refused_and_nothing_written(run: Callable, tiny: Callable, tmp_path: Path, flags: dict, change: dict,
                                     message: str) -> None:
    run("export", "bert", input_model_path=tiny("bert_mlm_sp"), config_path=tmp_path / "uer.json",
        output_model_path=tmp_path / "m", output_config_path=tmp_path / "bert_config.json", drop_output_layer=True)
    arrays = {**read_tensorflow(tmp_path / "m"), **change}
    write_tensorflow({name: array for name, array in arrays.items() if array is not None}, tmp_path / "m")
    with pytest.raises(UserError, match=message) as caught:
        run("import", **{"architecture": "bert", **flags}, input_model_path=tmp_path / "m",
            output_model_path=tmp_path / "back.bin")
    assert "\n" not in str(caught.value) and not (tmp_path / "back.bin").exists()


def test_an_output_layer_of_its_own(run: Callable, tiny: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--drop_output_layer"):
        run("export", "albert", input_model_path=tiny("albert_mlm_sp"), config_path=tmp_path / "uer.json",
            output_model_path=tmp_path / "m")
    assert not (tmp_path / "m.index").exists()


def test_albert_without_its_number_of_layers(run: Callable, tiny: Callable, tmp_path: Path) -> None:
    run("export", "albert", input_model_path=tiny("albert_mlm_sp"), config_path=tmp_path / "uer.json",
        output_model_path=tmp_path / "m", drop_output_layer=True)
    with pytest.raises(UserError, match="number of heads is not known"):
        run("import", "albert", input_model_path=tmp_path / "m", output_model_path=tmp_path / "back.bin")
