"""BART, T5, T5 v1.1, Pegasus and SBERT: the golden models through the scripts, as transformers opens them, and back."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.tools.golden_models import GoldenModel, entries, write_golden
from uer.checkpoint.files import load_into, load_weights, save_weights
from uer.convert.hugging_face_files import read_hugging_face
from uer.convert.open import open_checkpoint, open_hugging_face
from uer.errors import UserError
from uer.generation import generate
from uer.model import build_model

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

Run = Callable[..., str]
Make = Callable[[str], GoldenModel]
TEXTS = ["中国的首都是北京。", "长江extra0江"]
TOKENS = entries("extra0", "extra1")
FAMILIES = {"bart": "bart", "t5": "t5", "t5_v1_1": "t5", "pegasus": "pegasus"}  # golden model -> the scripts' name


@pytest.fixture
def golden_model(golden: Path, tmp_path: Path) -> Make:
    """Writes a golden model's files into the test's folder."""
    def make(name: str) -> GoldenModel:
        (tmp_path / "special_tokens_map.json").write_text('{"sentinel_token": "extra0"}')
        return write_golden(golden, name, tmp_path, TOKENS)

    return make


def to_huggingface(family: str) -> str:
    return f"convert_{family}_from_uer_to_huggingface.py"


def to_uer(family: str) -> str:
    return f"convert_{family}_from_huggingface_to_uer.py"


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back(run_script: Run, golden_model: Make, tmp_path: Path, name: str) -> None:
    model, family, folder = golden_model(name), FAMILIES[name], tmp_path / "theirs"
    printed = run_script(to_huggingface(family), *model.flags(), "--output_dir", folder, "--output_model_path",
                         tmp_path / "theirs.bin", "--layers_num", 2, "--decoder_layers_num", 2)
    assert printed.count("checked: on ") == 2 and "2 layers and 2 decoder layers" in printed
    assert ("layernorm_eps 1e-12" in printed) == (family != "t5")  # Hugging Face's T5 has UER's
    whole = load_weights(tmp_path / "theirs.bin")
    stored = read_hugging_face(folder).weights
    assert all(torch.equal(whole[key], tensor) for key, tensor in stored.items())
    left = {"model.decoder.embed_tokens.weight", "model.encoder.embed_tokens.weight", "lm_head.weight"}
    assert whole.keys() - stored.keys() == ({key.removeprefix("model.") for key in left} - {"lm_head.weight"}
                                            if family == "t5" else left)
    printed = run_script(to_uer(family), "--input_model_path", folder, "--output_model_path", tmp_path / "back.bin",
                         "--output_config_path", tmp_path / "back.json", "--decoder_layers_num", 2)
    assert "checked: on " in printed and same(load_weights(tmp_path / "back.bin"), model.weights)
    before, after = (json.loads(path.read_text()) for path in (model.settings, tmp_path / "back.json"))
    assert {key: after[key] for key in before} == before
    assert_generates_as_ours(folder)
    os.rename(tmp_path / "theirs.bin", folder / "pytorch_model.bin")  # every name is there, shared or not
    os.remove(folder / "model.safetensors")
    assert same(open_hugging_face(folder / "pytorch_model.bin").converted.weights, model.weights)


def assert_generates_as_ours(folder: Path) -> None:
    """The auto classes open the folder without loss, and decode greedily what `uer.generation` does."""
    theirs, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert "BertTokenizer" in type(tokenizer).__name__
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert tokenizer.convert_ids_to_tokens(inputs["input_ids"][1])[:5] == ["[CLS]", "长", "江", "extra0", "江"]
    found = theirs.generate(**inputs, max_new_tokens=9, do_sample=False)[:, 1:9].tolist()  # BART forces [SEP] at last
    weights, config = open_checkpoint(folder, None)
    ours = build_model(config, len(TOKENS)).eval()
    assert not load_into(ours, weights, "x").missing
    prompts = [[index for index in row if index] for row in inputs["input_ids"].tolist()]
    expected = generate(ours, prompts, most=8, stop_id=3, start_id=2)
    assert [row[:len(text)] for row, text in zip(found, expected)] == expected and all(expected)


def test_an_output_layer_of_its_own(run_script: Run, golden_model: Make, tmp_path: Path) -> None:
    """BART without tied weights: transformers then shares nothing, so that every name is in the file."""
    model, folder = golden_model("bart"), tmp_path / "theirs"
    model.weights["target.lm.output_layer.weight"] = torch.randn(len(TOKENS), 32)
    save_weights(model.weights, model.checkpoint)
    model.settings.write_text(json.dumps({**json.loads(model.settings.read_text()), "tie_weights": False}))
    assert "checked: on " in run_script(to_huggingface("bart"), *model.flags(), "--output_dir", folder)
    assert "model.decoder.embed_tokens.weight" in read_hugging_face(folder).weights
    assert same(open_hugging_face(folder).converted.weights, model.weights)


def random_model(kind: str, folder: Path, **settings: Any) -> nn.Module:
    """A small random model as transformers saves it."""
    torch.manual_seed(3)
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(
        vocab_size=len(TOKENS), d_model=24, pad_token_id=0, decoder_start_token_id=2, eos_token_id=3,
        **settings)).to(settings.get("dtype", torch.float32))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "embed_positions" not in name or "Bart" in kind:
                tensor.normal_(0, 0.3)
    model.save_pretrained(folder)
    return model


LAYERS = {"encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
          "encoder_ffn_dim": 29, "decoder_ffn_dim": 29, "max_position_embeddings": 40, "forced_eos_token_id": 3}
T5_SIZES = {"num_layers": 2, "num_decoder_layers": 3, "num_heads": 3, "d_kv": 7, "d_ff": 29}


PEGASUS = {**LAYERS, "scale_embedding": True, "activation_function": "relu"}


@pytest.mark.parametrize(("kind", "family", "settings"), [
    ("BartForConditionalGeneration", "bart", {**LAYERS, "bos_token_id": 2}),
    ("PegasusForConditionalGeneration", "pegasus", PEGASUS),
    ("PegasusForConditionalGeneration", "pegasus", {**PEGASUS, "dtype": torch.bfloat16}),
    ("T5ForConditionalGeneration", "t5", T5_SIZES),
    ("T5ForConditionalGeneration", "t5", {**T5_SIZES, "dtype": torch.float16}),
])
def test_models_of_other_origin(run_script: Run, tmp_path: Path, kind: str, family: str, settings: dict) -> None:
    """Pegasus with all sines first, T5 with scaled hidden states, and both in 16 bits: the scripts' check
    compares real logits."""
    random_model(kind, tmp_path / "theirs", **settings)
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS))
    printed = run_script(to_uer(family), "--input_model_path", tmp_path / "theirs", "--output_model_path",
                         tmp_path / "uer.bin", "--output_config_path", tmp_path / "uer.json", "--layers_num", 2,
                         "--decoder_layers_num", 3)
    assert "checked: on " in printed
    printed = run_script(to_huggingface(family), "--input_model_path", tmp_path / "uer.bin", "--output_model_path",
                         tmp_path / "back.bin", "--config_path", tmp_path / "uer.json", "--output_dir",
                         tmp_path / "back", "--vocab_path", tmp_path / "vocab.txt")
    assert printed.count("checked: on ") == 2 and "layernorm_eps" not in printed


def test_an_old_pickled_file_of_mt5(run_script: Run, golden_model: Make, tmp_path: Path) -> None:
    """As UER-py's organisation publishes T5 v1.1."""
    model, folder = golden_model("t5_v1_1"), tmp_path / "theirs"
    run_script(to_huggingface("t5"), *model.flags(), "--output_dir", folder, "--no_check")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin", pickle_protocol=2,
               pickle_module=pickle, _use_new_zipfile_serialization=False)
    os.remove(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mt5"}))
    source = open_hugging_face(folder)
    assert source.architecture.title == "T5 v1.1" and same(source.converted.weights, model.weights)


@pytest.mark.parametrize(("name", "script", "flags", "message"), [
    ("bart", "bart", ("--layers_num", 6), "layers_num is 6, but .* has 2 layers"),
    ("bart", "bart", ("--decoder_layers_num", 6), "decoder_layers_num is 6, but .* has 2 layers in its decoder"),
    ("t5", "t5", ("--type", "t5-v1_1"), "it is no model of --type t5-v1_1; --type t5 fits"),
    ("t5_v1_1", "t5", ("--type", "t5"), "it is no model of --type t5; --type t5-v1_1 fits"),
    ("t5_v1_1", "t5", ("--type", "t6"), "--type: 't6' is unknown"),
    ("t5", "bart", (), "tensors are missing"),
    ("bart", "pegasus", (), "tensors are missing"),
    ("pegasus", "sbert", (), "tensors are missing"),
    ("pegasus", "pegasus", ("--max_seq_length", 0), "--max_seq_length must lie between 1 and"),
])
def test_what_does_not_fit_is_refused(run_script: Run, golden_model: Make, tmp_path: Path, name: str,
                                      script: str, flags: tuple, message: str) -> None:
    arguments = golden_model(name).flags()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message) as found:
        run_script(to_huggingface(script), *arguments, "--output_dir", tmp_path / "theirs", *flags)
    assert sorted(tmp_path.iterdir()) == before and "\n" not in str(found.value)


def drop(weights: dict[str, Tensor]) -> None:
    del weights["decoder.transformer_decoder.1.context_attn.final_linear.bias"]


def add(weights: dict[str, Tensor]) -> None:
    weights["encoder.transformer.1.layer_norm_9.gamma"] = torch.ones(32)


def part(weights: dict[str, Tensor]) -> None:
    weights["tgt_embedding.word.embedding.weight"] = weights["tgt_embedding.word.embedding.weight"] + 1


@pytest.mark.parametrize(("change", "message"), [
    (drop, r"1 of 94 tensors are missing: decoder\.transformer_decoder\.1\.context_attn\.final_linear\.bias"),
    (add, r"no row for encoder\.transformer\.1\.layer_norm_9\.gamma"),
    (part, r"tgt_embedding\.word\.embedding\.weight differs from embedding\.word\.embedding\.weight"),
])
def test_damaged_checkpoints_are_refused(run_script: Run, golden_model: Make, tmp_path: Path,
                                         change: Callable[[dict], None], message: str) -> None:
    model = golden_model("bart")
    change(model.weights)
    save_weights(model.weights, model.checkpoint)
    with pytest.raises(UserError, match=message):
        run_script(to_huggingface("bart"), *model.flags(), "--output_model_path", tmp_path / "theirs.bin")
    assert not (tmp_path / "theirs.bin").exists()


def test_folders_of_another_model_are_refused(run_script: Run, golden_model: Make,
                                              tmp_path: Path) -> None:
    model, folder = golden_model("pegasus"), tmp_path / "theirs"
    run_script(to_huggingface("pegasus"), *model.flags(), "--output_dir", folder, "--no_check", "--max_seq_length", 30)
    weights = load_file(folder / "model.safetensors")
    assert weights["model.encoder.embed_positions.weight"].shape == (30, 32)
    with pytest.raises(UserError, match="model_type is pegasus; only bart can be converted"):
        run_script(to_uer("bart"), "--input_model_path", folder, "--output_model_path", tmp_path / "back.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "decoder_attention_heads": 8}))
    with pytest.raises(UserError, match="encoder_attention_heads is 4; UER's Pegasus has one heads_num"):
        run_script(to_uer("pegasus"), "--input_model_path", folder, "--output_model_path", tmp_path / "back.bin")
    (folder / "config.json").write_text(json.dumps(config))
    weights["model.decoder.embed_positions.weight"][7, 3] += 1
    torch.save(weights, folder / "pytorch_model.bin")
    os.remove(folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.decoder\.embed_positions\.weight holds no sines"):
        run_script(to_uer("pegasus"), "--input_model_path", folder, "--output_model_path", tmp_path / "back.bin")
    assert not (tmp_path / "back.bin").exists()


def export_sbert(run_script: Run, model: GoldenModel, folder: Path) -> str:
    settings = json.loads(model.settings.read_text())
    model.settings.write_text(json.dumps({**settings, "pooling": "mean"}))
    return run_script(to_huggingface("sbert"), *model.flags(), "--output_dir", folder, "--layers_num", 2)


def test_sbert_there_and_back(run_script: Run, golden_model: Make, tmp_path: Path) -> None:
    """Mended: UER-py's second layer norm and its classifier are left out, and padding's segment comes back as zeros."""
    model, folder = golden_model("sbert_siamese"), tmp_path / "theirs"
    assert "a second layer norm" in export_sbert(run_script, model, folder)
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert "checked: on " in export_sbert(run_script, model, folder)  # into a folder that is there
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    assert {str(path.relative_to(folder)) for path in first} > {
        "modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json"}
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    assert [name for name, value in pooling.items() if value is True] == ["pooling_mode_mean_tokens"]
    printed = run_script(to_uer("sbert"), "--input_model_path", folder, "--output_model_path", tmp_path / "back.bin",
                         "--output_config_path", tmp_path / "back.json")
    back = load_weights(tmp_path / "back.bin")
    assert "checked: on " in printed and model.weights.keys() - back.keys() == {
        "classifier.weight", "classifier.bias",
        *(f"embedding.dual.stream_{n}_layer_norm.{part}" for n in (0, 1) for part in ("gamma", "beta"))}
    assert [key for key, tensor in back.items() if not torch.equal(tensor, model.weights[key])] == [
        f"embedding.dual.embedding_{n}.seg.embedding.weight" for n in (0, 1)]
    before, after = (json.loads(path.read_text()) for path in (model.settings, tmp_path / "back.json"))
    assert {key: after[key] for key in ("encoder", "embedding", "pooling", "tie_weights")} == {
        key: before[key] for key in ("encoder", "embedding", "pooling", "tie_weights")}
    assert after["stream_1"].items() <= before["stream_1"].items()
    for mode in ("pooling_mode_weightedmean_tokens", "pooling_mode_cls_token"):
        (folder / "1_Pooling/config.json").write_text(json.dumps({**pooling, mode: True}))
        with pytest.raises(UserError, match=rf"1_Pooling/config.json: pools by .*{mode}"):
            run_script(to_uer("sbert"), "--input_model_path", folder, "--output_model_path", tmp_path / "other.bin")


def test_sentence_transformers_open_the_folder(run_script: Run, golden_model: Make,
                                               tmp_path: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    export_sbert(run_script, golden_model("sbert_siamese"), tmp_path / "theirs")
    found = torch.tensor(package.SentenceTransformer(str(tmp_path / "theirs"), device="cpu").encode(TEXTS[0]))
    inputs = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")(TEXTS[0], return_tensors="pt")
    theirs = transformers.BertModel.from_pretrained(tmp_path / "theirs", add_pooling_layer=False).eval()
    with torch.no_grad():
        assert torch.allclose(found, theirs(**inputs).last_hidden_state.mean(1)[0], atol=1e-5)
