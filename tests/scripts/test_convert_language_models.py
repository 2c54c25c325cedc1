"""GPT-2, ALBERT and XLM-RoBERTa: the golden models through the scripts, as transformers opens them, and back."""

import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import uer
from tests.tools.golden_models import entries, write_golden
from uer.checkpoint.files import load_into, load_weights, save_weights
from uer.convert import ARCHITECTURES
from uer.convert.hugging_face_files import read_hugging_face
from uer.convert.names import tidy
from uer.convert.open import open_hugging_face
from uer.convert.tokenizer_files import read_tokenizer, tokenizer_settings
from uer.errors import UserError
from uer.generation import generate
from uer.model import build_model

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

Run = Callable[..., str]
FAMILIES = {"gpt2_lm": "gpt2", "megatron_gpt2_lm": "gpt2", "albert_mlm_sp": "albert", "xlm_roberta_mlm": "xlmroberta"}
# Rows that one side does not have.
CHANGED = {"gpt2": set(), "albert": {"embedding.seg.embedding.weight"},
           "xlmroberta": {"embedding.seg.embedding.weight", "embedding.pos.embedding.weight"}}


def to_huggingface(family: str) -> str:
    return f"convert_{family}_from_uer_to_huggingface.py"


def to_uer(family: str) -> str:
    return f"convert_{family}_from_huggingface_to_uer.py"


@pytest.fixture
def golden_model(golden: Path, tmp_path: Path) -> Callable[[str], tuple[dict[str, Tensor], tuple[object, ...]]]:
    """A golden model's weights, and the flags of its export."""
    def make(name: str) -> tuple[dict[str, Tensor], tuple[object, ...]]:
        model = write_golden(golden, name, tmp_path, entries())
        return model.weights, model.flags("input_model_path", "config_path")

    return make


def random_folder(folder: Path, kind: str, **settings: object) -> nn.Module:
    """A small model as transformers saves it; every bias and norm is random too."""
    torch.manual_seed(3)
    model = getattr(transformers, kind)(getattr(transformers, kind).config_class(initializer_range=0.3, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def differing(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


@pytest.mark.parametrize("name", list(FAMILIES))
def test_golden_models_there_and_back(run_script: Run, golden_model: Callable, tmp_path: Path, name: str) -> None:
    """Through a file of the weights alone, and through the format that torch.save had before 2020."""
    family, (weights, flags) = FAMILIES[name], golden_model(name)
    printed = run_script(to_huggingface(family), *flags, "--output_model_path", tmp_path / "theirs.bin")
    assert "checked: on " in printed
    theirs = load_weights(tmp_path / "theirs.bin")
    if family == "gpt2":  # as old files have it: buffers among the weights, and no prefix
        theirs = {key.removeprefix("transformer."): tensor for key, tensor in theirs.items() if key != "lm_head.weight"}
        theirs |= {"h.0.attn.bias": torch.ones(1, 1, 24, 24).tril().byte(), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    torch.save(theirs, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    config = ["--output_config_path", tmp_path / "back.json", "--no_check"]
    if family == "albert":
        with pytest.raises(UserError, match="is not known; give the model's settings"):
            run_script(to_uer(family), "--input_model_path", tmp_path / "old.bin", "--output_model_path",
                       tmp_path / "back.bin")
    settings = json.loads((tmp_path / "uer.json").read_text())
    heads = dict.fromkeys(("num_attention_heads", "n_head"), settings["heads_num"])
    (tmp_path / "config.json").write_text(json.dumps({**heads, "num_hidden_layers": settings["layers_num"]}))
    run_script(to_uer(family), "--input_model_path", tmp_path / "old.bin", "--output_model_path",
               tmp_path / "back.bin", *config)
    assert differing(load_weights(tmp_path / "back.bin"), weights) == CHANGED[family]


def test_gpt2_generates_in_transformers_as_here(run_script: Run, golden_model: Callable, tmp_path: Path) -> None:
    _, flags = golden_model("gpt2_lm")
    folder = tmp_path / "gpt2-chinese"
    run_script(to_huggingface("gpt2"), *flags, "--output_dir", folder, "--vocab_path", tmp_path / "vocab.txt",
               "--layers_num", 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "generation_config.json", "model.safetensors", "special_tokens_map.json",
        "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["activation_function"], config["n_inner"], config["layer_norm_epsilon"]) == ("gelu_new", 48, 1e-12)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    source = open_hugging_face(folder)
    ours = build_model(source.config, 120).eval()
    load_into(ours, source.converted.weights, "x")
    prompts = [[2, *range(5, 9)], [2, 17, 33, 60, 8], [2, 99, 41, 5, 5]]
    expected = theirs.generate(torch.tensor(prompts), attention_mask=torch.ones(3, 5), do_sample=False,
                               max_new_tokens=12)[:, 5:]
    for found, row in zip(generate(ours, prompts, most=12, stop_id=3), expected.tolist()):
        assert found == row[:row.index(3) if 3 in row else 12]
    pipeline = transformers.pipeline("text-generation", model=str(folder))
    assert type(pipeline.tokenizer).__name__.startswith("BertTokenizer")
    (answer,) = pipeline("[CLS]中国", add_special_tokens=False, max_new_tokens=3, do_sample=False)
    assert answer["generated_text"].replace(" ", "").startswith("[CLS]中国")
    assert 'pipeline("text-generation", model="gpt2-chinese")' in (folder / "README.md").read_text()
    assert uer.load(folder, device="cpu").encode(["中国"]).shape == (1, 32)


def test_an_english_gpt2_has_byte_level_files(run_script: Run, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    trainer = tokenizers.ByteLevelBPETokenizer()
    trainer.train_from_iterator(["The cat didn't see 23 dogs, the dogs they've seen."] * 9, vocab_size=300,
                                show_progress=False, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    trainer.save_model(str(tmp_path))
    size = trainer.get_vocab_size()
    model = random_folder(tmp_path / "theirs", "GPT2LMHeadModel", vocab_size=size, n_embd=32, n_layer=2, n_head=4,
                          n_positions=40, bos_token_id=0, eos_token_id=2)
    printed = run_script(to_uer("gpt2"), "--input_model_path", tmp_path / "theirs", "--output_model_path",
                         tmp_path / "uer.bin", "--output_config_path", tmp_path / "uer.json")
    assert "checked: on " in printed
    assert json.loads((tmp_path / "uer.json").read_text())["layernorm_eps"] == 1e-5
    run_script(to_huggingface("gpt2"), "--input_model_path", tmp_path / "uer.bin", "--config_path",
               tmp_path / "uer.json", "--output_dir", tmp_path / "back", "--vocab_path", tmp_path / "vocab.json",
               "--merges_path", tmp_path / "merges.txt")
    first, back = (read_hugging_face(tmp_path / name).weights for name in ("theirs", "back"))
    assert not differing(first, back)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    text = "The dogs didn't see 北京."
    assert type(tokenizer).__name__.startswith("GPT2Tokenizer") and len(tokenizer) == size
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")
    assert tokenizer(text)["input_ids"] == trainer.encode(text).ids
    assert tokenizer_settings(tmp_path / "back")["tokenizer"] == "bpe"
    for file in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (tmp_path / "back" / file).unlink()
    tokenizer.save_pretrained(tmp_path / "back")  # of tokenizer.json alone, in transformers 5
    loaded = uer.load(tmp_path / "back", device="cpu")
    assert loaded.tokenizer.encode(text) == trainer.encode(text).ids
    assert loaded.encode([text]).shape == (1, 32)
    with torch.no_grad():
        hidden = model.transformer(torch.tensor([trainer.encode(text).ids])).last_hidden_state
        src = torch.tensor([loaded.tokenizer.encode(text)])
        assert torch.allclose(loaded.model.encode(src, torch.ones_like(src)), hidden, atol=1e-4)


def test_xlm_roberta_has_its_sentence_piece_model(run_script: Run, tmp_path: Path) -> None:
    sentencepiece, content = pytest.importorskip("sentencepiece"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["中国的首都是北京。", "长江是最长的河流，全长约6300公里。", "ab cd a b c d ."] * 20),
        model_writer=content, vocab_size=60, hard_vocab_limit=False, minloglevel=2, num_threads=1)
    (tmp_path / "m.model").write_bytes(content.getvalue())
    size = sentencepiece.SentencePieceProcessor(model_proto=content.getvalue()).get_piece_size() + 2
    random_folder(tmp_path / "theirs", "XLMRobertaForMaskedLM", vocab_size=size, hidden_size=32, num_hidden_layers=2,
                  num_attention_heads=4, intermediate_size=48, max_position_embeddings=34, type_vocab_size=1,
                  layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    printed = run_script(to_uer("xlmroberta"), "--input_model_path", tmp_path / "theirs", "--output_model_path",
                         tmp_path / "uer.bin", "--output_config_path", tmp_path / "uer.json")
    assert "checked: on " in printed and "sequences have at most 32 tokens" in printed
    (tmp_path / "back").mkdir()
    (tmp_path / "back/tokenizer.json").write_text("of a BERT that was here before")
    (tmp_path / "back/notes.txt").write_text("of the user")
    printed = run_script(to_huggingface("xlmroberta"), "--input_model_path", tmp_path / "uer.bin", "--config_path",
                         tmp_path / "uer.json", "--output_dir", tmp_path / "back", "--spm_model_path",
                         tmp_path / "m.model")
    assert "sequences have at most 32 tokens" in printed  # UER's positions 32 and 33 are not exported
    first, back = (read_hugging_face(tmp_path / name).weights for name in ("theirs", "back"))
    assert torch.equal(back["lm_head.decoder.bias"], first["lm_head.bias"])  # transformers 4 reads no other
    rows = {name: tidy(weights, ARCHITECTURES["xlm-roberta"].names) for name, weights in
            (("first", first), ("back", back))}
    positions = [rows[name].pop("roberta.embeddings.position_embeddings.weight") for name in rows]
    assert not differing(rows["first"], rows["back"])
    assert torch.equal(positions[0][2:], positions[1][2:]) and not positions[1][:2].any()
    assert (tmp_path / "back/sentencepiece.bpe.model").read_bytes() == content.getvalue()
    assert not (tmp_path / "back/tokenizer.json").exists() and (tmp_path / "back/notes.txt").exists()
    answers = transformers.pipeline("fill-mask", model=str(tmp_path / "back"), top_k=3)("中国的<mask>都")
    assert len(answers) == 3
    tokenizer, ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "back"), read_tokenizer(tmp_path / "back")
    assert tokenizer("中国 ab")["input_ids"] == [0, *ours.encode("中国 ab"), 2] and tokenizer.model_max_length == 32
    assert "<mask>" in (tmp_path / "back/README.md").read_text()
    assert tokenizer_settings(tmp_path / "back")["tokenizer"] == "xlmroberta"
    ids = tokenizer("长江" * 40, truncation=True, return_tensors="pt")
    with torch.no_grad():
        wanted = transformers.XLMRobertaModel.from_pretrained(tmp_path / "back")(**ids).last_hidden_state[:, 0]
    found = uer.load(tmp_path / "back", device="cpu").encode(["长江" * 40])
    assert ids["input_ids"].shape == (1, 32) and torch.allclose(torch.from_numpy(found), wanted, atol=1e-5)
    (tmp_path / "t.txt").write_text("长江" * 40)
    run_script("extract_features.py", "--load_model_path", tmp_path / "back", "--test_path", tmp_path / "t.txt",
               "--prediction_path", tmp_path / "f.npy", "--seq_length", 34)
    assert torch.allclose(torch.from_numpy(np.load(tmp_path / "f.npy")), wanted, atol=1e-5)
    with pytest.raises(UserError, match="--spm_model_path is required"):
        run_script(to_huggingface("xlmroberta"), "--input_model_path", tmp_path / "uer.bin", "--config_path",
                   tmp_path / "uer.json", "--output_dir", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_albert_by_its_weights_alone(run_script: Run, golden_model: Callable, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """UER-py's command names no number of layers, which only config.json needs."""
    _, flags = golden_model("albert_mlm_sp")
    monkeypatch.chdir(tmp_path)
    wide = random_folder(tmp_path / "theirs", "AlbertForPreTraining", vocab_size=120, embedding_size=16, hidden_size=64,
                         num_hidden_layers=2, num_attention_heads=1, intermediate_size=48, hidden_act="relu",
                         max_position_embeddings=24)
    run_script(to_uer("albert"), "--input_model_path", tmp_path / "theirs", "--output_model_path", "wide.bin")
    assert "checked: on " in run_script(to_huggingface("albert"), "--input_model_path", "wide.bin")
    found = load_weights("pytorch_model.bin")
    assert all(torch.equal(found[name], tensor) for name, tensor in wide.state_dict().items() if name in found)
    folder = ["--output_dir", "new", "--vocab_path", "vocab.txt"]
    with pytest.raises(UserError, match="their number is not known"):
        run_script(to_huggingface("albert"), "--input_model_path", "wide.bin", *folder)
    with pytest.raises(UserError, match=r"layers_num is 7, but .* has 3 layers"):
        run_script(to_huggingface("albert"), *flags, *folder, "--layers_num", 7)
    assert not Path("new").exists()
    run_script(to_huggingface("albert"), "--input_model_path", "wide.bin", *folder, "--layers_num", 2)
    _, info = transformers.AutoModelForMaskedLM.from_pretrained("new", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert uer.load("new", device="cpu").model.config.layers_num == 2


@pytest.mark.parametrize(("family", "name", "change", "more", "message"), [
    ("gpt2", "gpt2_lm", {}, ["--layers_num", 12], "layers_num is 12, but .* has 2 layers"),
    ("gpt2", "xlm_roberta_mlm", {}, [], "2 of .* tensors are missing: encoder.layer_norm.gamma"),
    ("gpt2", "gpt2_lm", {"encoder.layer_norm.gamma": None}, [], "tensors are missing: encoder.layer_norm.gamma"),
    ("gpt2", "gpt2_lm", {"embedding.seg.embedding.weight": torch.ones(3, 32)}, [],
     "another architecture: no row for embedding.seg.embedding.weight"),
    ("gpt2", "gpt2_lm", {"classifer.weight": torch.ones(3, 32)}, [], "no architecture has classifer.weight"),
    ("albert", "xlm_roberta_mlm", {}, [], "tensors are missing: encoder.linear.weight"),
    ("xlmroberta", "albert_mlm_sp", {}, [], "tensors are missing: encoder.transformer.0.self_attn"),
    ("xlmroberta", "xlm_roberta_mlm", {"target.mlm.layer_norm.beta": None}, [], "no mlm head"),
])
def test_what_does_not_fit_is_named(run_script: Run, golden_model: Callable, tmp_path: Path, family: str, name: str,
                                    change: Mapping[str, Tensor | None], more: list[object], message: str) -> None:
    weights, flags = golden_model(name)
    if change:
        changed = {key: tensor for key, tensor in {**weights, **change}.items() if tensor is not None}
        save_weights(changed, tmp_path / "uer.bin")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        run_script(to_huggingface(family), *flags, "--output_model_path", tmp_path / "theirs.bin", *more)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("family", "change", "message"), [
    ("albert", {}, "model_type is gpt2; only albert can be converted"),
    ("xlmroberta", {}, "model_type is gpt2; only xlm-roberta can be converted"),
    ("gpt2", {"activation_function": "mish"}, "activation_function mish has no counterpart in UER"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ("gpt2", {"layer_norm_epsilon": 2}, "layer_norm_epsilon must lie between 0 and 1, not 2"),
    ("gpt2", {"n_layer": 3}, "config.json says n_layer 3, but the weights have 2"),
])
def test_another_folder_is_refused(run_script: Run, tmp_path: Path, family: str, change: dict, message: str) -> None:
    random_folder(tmp_path / "theirs", "GPT2LMHeadModel", vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=20)
    content = json.loads((tmp_path / "theirs/config.json").read_text())
    (tmp_path / "theirs/config.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match=message):
        run_script(to_uer(family), "--input_model_path", tmp_path / "theirs", "--output_model_path", tmp_path / "x.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
