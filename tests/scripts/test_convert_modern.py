"""Tiny models of transformers with rotary positions, grouped queries or ALiBi, and ours: the same logits everywhere."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import uer
from tests.scripts.test_convert_architectures import save_random
from uer.checkpoint.files import load_into
from uer.config import ModelConfig, TokenizerConfig
from uer.convert import ARCHITECTURES
from uer.convert.hugging_face_files import read_hugging_face
from uer.convert.open import open_hugging_face
from uer.convert.tokenizer_files import read_tokenizer, tokenizer_settings
from uer.errors import UserError
from uer.finetuning.labels import LabelSet
from uer.finetuning.saved_model import save_finetuned
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import Classification
from uer.model import Model, build_model
from uer.tokenizers import BertTokenizer, QwenTokenizer, Vocab, build_tokenizer

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", minversion="5.0")  # whose names for rotary settings are used here

LLAMA = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6,
         "num_key_value_heads": 2, "intermediate_size": 53, "max_position_embeddings": 31}
MODERNBERT = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 5, "num_attention_heads": 6,
              "intermediate_size": 53, "max_position_embeddings": 31, "local_attention": 6, "cls_token_id": 2,
              "sep_token_id": 3, "rope_parameters": {
                  "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
                  "sliding_attention": {"rope_type": "default", "rope_theta": 70.0}}}
# The case -> what the scripts' names have for it, transformers' class, its configuration.
CASES: dict[str, tuple[str, str, dict]] = {
    "llama": ("llama", "LlamaForCausalLM", {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "llama with tied weights": ("llama", "LlamaForCausalLM", {**LLAMA, "num_key_value_heads": 6, "head_dim": 12,
                                                              "tie_word_embeddings": True}),
    "qwen2": ("qwen", "Qwen2ForCausalLM", LLAMA),
    "modernbert": ("modernbert", "ModernBertForMaskedLM", MODERNBERT),
    "modernbert with a layer of its own": ("modernbert", "ModernBertForMaskedLM", {
        **MODERNBERT, "tie_word_embeddings": False, "global_attn_every_n_layers": 2, "hidden_activation": "silu",
        "classifier_activation": "silu", "classifier_pooling": "mean"}),
    "bloom": ("bloom", "BloomForCausalLM", {"vocab_size": 97, "hidden_size": 48, "n_layer": 3, "n_head": 6}),
    "qwen3": ("qwen", "Qwen3ForCausalLM", {**LLAMA, "head_dim": 10}),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, nn.Module, Path]:
    """What the scripts call it, a random model of transformers, and its folder."""
    script, kind, settings = CASES[request.param]
    kind = getattr(transformers, kind)
    model = kind(kind.config_class(**settings, bos_token_id=2, eos_token_id=3, pad_token_id=0))
    return script, model.eval(), save_random(model, tmp_path_factory.mktemp("theirs") / "model")


def ours_of(folder: Path, unpad: str) -> Model:
    source = open_hugging_face(folder)
    model = build_model(source.config, 97, unpad=unpad).eval()
    assert not load_into(model, source.converted.weights, "x").missing
    return model


def rows(lengths: tuple[int, ...] = (17, 9, 14)) -> tuple[torch.Tensor, torch.Tensor]:
    seg = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(5, 97, seg.shape, generator=torch.Generator().manual_seed(1)) * seg, seg


@torch.no_grad()
def logits_of(model: Model, src: torch.Tensor, seg: torch.Tensor) -> torch.Tensor:
    (target,) = model.target.values()
    return target.logits(model.encode(src, seg))


@pytest.mark.parametrize("unpad", ["on", "off"])
def test_logits_are_those_of_transformers(case: tuple[str, nn.Module, Path], unpad: str) -> None:
    _, theirs, folder = case
    src, seg = rows()
    found = logits_of(ours_of(folder, unpad), src, seg)[seg > 0]
    with torch.no_grad():
        expected = theirs(input_ids=src, attention_mask=seg).logits[seg > 0]
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())


def test_there_and_back(case: tuple[str, nn.Module, Path], run_script: Callable[..., str], tmp_path: Path,
                        monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder, from its weights file alone, and to a folder again: each checked, and the tensors are the same."""
    name, _, folder = case
    there, back = f"convert_{name}_from_huggingface_to_uer.py", f"convert_{name}_from_uer_to_huggingface.py"
    for path in (folder, folder / "model.safetensors"):
        printed = run_script(there, "--input_model_path", path, "--output_model_path", tmp_path / "uer.bin",
                             "--output_config_path", tmp_path / "c.json", "--output_vocab_path", tmp_path / "v.txt")
        assert "checked: on " in printed
    options = ("--input_model_path", tmp_path / "uer.bin", "--config_path", tmp_path / "c.json", "--vocab_path",
               tmp_path / "v.txt")
    assert "checked: on " in run_script(back, *options, "--output_model_path", tmp_path / "back.bin")
    first, no_check = read_hugging_face(folder), ()
    if first.config["model_type"] == "qwen2":  # transformers 5 opens it with Qwen2's own tokenizer, whatever is there
        with pytest.raises(UserError, match="opens every folder of Qwen2 with its own tokenizer, that of --tokenizer"):
            run_script(back, *options, "--output_dir", tmp_path / "back")
        no_check = ("--no_check",)
    printed = run_script(back, *options, "--output_dir", tmp_path / "back", *no_check)
    assert no_check or "checked: on " in printed
    second = read_hugging_face(tmp_path / "back")
    assert first.weights.keys() == second.weights.keys()
    assert all(torch.equal(tensor, second.weights[key]) for key, tensor in first.weights.items())
    assert second.config["model_type"] == first.config["model_type"]
    assert second.config.get("classifier_pooling") == first.config.get("classifier_pooling")  # for its fine-tuning


@pytest.fixture(scope="module")
def qwen_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny tokenizer of Qwen's kind: vocabulary, merges, roles."""
    tokenizers, folder = pytest.importorskip("tokenizers"), tmp_path_factory.mktemp("qwen")
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    QwenTokenizer.set_rules(trained)
    trained.train_from_iterator([TEXT] * 9, tokenizers.trainers.BpeTrainer(
        vocab_size=330, show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[*QwenTokenizer.default_special_tokens.values()]))
    trained.model.save(str(folder))
    return folder


TEXT = "Don't (see) 23 dogs。北京，是\u0065\u0301 \n\n  two\nlines.\n They'LL"


@pytest.mark.parametrize("kind", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_qwen_s_tokenizer_there_and_back(run_script: Callable[..., str], tmp_path: Path, qwen_tokenizer: Path,
                                         kind: str) -> None:
    """The folder of transformers has special tokens that vocab.json lacks; ours has all of them in it."""
    files = {"vocab": str(qwen_tokenizer / "vocab.json"), "merges": str(qwen_tokenizer / "merges.txt")}
    theirs = transformers.Qwen2Tokenizer(**files)
    theirs.add_special_tokens({"additional_special_tokens": ["<|added|>"]})
    kind = getattr(transformers, kind)
    config = kind.config_class(**{**LLAMA, "vocab_size": len(theirs) + 2}, head_dim=8)  # Qwen's has unused rows, too
    folder = save_random(kind(config), tmp_path / "theirs")
    (folder / "vocab.txt").unlink()
    theirs.save_pretrained(folder)
    assert not (folder / "merges.txt").exists()  # transformers 5 writes tokenizer.json alone
    for name in ("vocab.json", "merges.txt") if "Qwen2" in kind.__name__ else ():  # as in Qwen's own folders
        (folder / name).write_bytes((qwen_tokenizer / name).read_bytes())
    run_script("convert_qwen_from_huggingface_to_uer.py", "--input_model_path", folder, "--output_model_path",
               tmp_path / "uer.bin", "--output_config_path", tmp_path / "c.json", "--output_vocab_path",
               tmp_path / "v.txt")
    flags = tokenizer_settings(folder)
    assert flags["tokenizer"] == "qwen"
    assert len(build_tokenizer(TokenizerConfig(**flags)).vocab) == len(theirs)
    ours = build_tokenizer(TokenizerConfig(**{**flags, "vocab_path": str(tmp_path / "v.txt")}))
    assert len(ours.vocab) == len(theirs) + 2 and ours.vocab.tokens[-3:-1] == [
        "<|added|>", f"<|unused_{len(theirs)}|>"]
    assert uer.load(folder, device="cpu").encode([TEXT]).shape == (1, config.hidden_size)
    printed = run_script("convert_qwen_from_uer_to_huggingface.py", "--input_model_path", tmp_path / "uer.bin",
                         "--config_path", tmp_path / "c.json", "--vocab_path", tmp_path / "v.txt", "--merges_path",
                         flags["merges_path"], "--output_dir", tmp_path / "back")
    assert "checked: on " in printed
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert type(again).__name__ == "Qwen2Tokenizer" and len(again) == len(ours.vocab)
    expected = ours.encode(TEXT)
    assert theirs(TEXT)["input_ids"] == expected == again(TEXT)["input_ids"]
    assert read_tokenizer(tmp_path / "back").encode(TEXT) == expected
    assert any(len(ours.surface(token)) > 3 for token in ours.tokenize(TEXT))
    assert (again.pad_token, again.eos_token) == ("<|endoftext|>", "<|im_end|>")


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    architecture = ARCHITECTURES["llama"]
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    weights = dict(model.state_dict())
    with pytest.raises(UserError, match="the number of heads is not known"):
        architecture.tidied(weights, {}, "x")
    with pytest.raises(UserError, match="does not consist of heads of 14"):
        architecture.tidied(weights, {"head_dim": 14}, "x")
    with pytest.raises(UserError, match="does not consist of heads of -1") as found:
        architecture.tidied(weights, {"head_dim": -1}, "x")
    assert "\n" not in str(found.value)
    for content in ({"layer_types": 3}, {"layer_types": []}, {"rope_parameters": "x"}):
        with pytest.raises(UserError, match=f"x: {min(content)} "):
            ARCHITECTURES["modernbert"].read_config(content, "x")
    with pytest.raises(UserError, match="x: rope_parameters is yarn"):
        architecture.read_config({"rope_parameters": {"rope_type": "yarn"}}, "x")
    config = replace(open_hugging_face(save_random(model, tmp_path / "m")).config, attention_window=4)
    with pytest.raises(UserError, match="x: attention_window is 4 in the model's settings, but it is 0 in"):
        architecture.model_config({"hidden": 48, "vocab": 97, "layers": 3, "feedforward": 53}, config, "lm", False, "x")


FINETUNED: dict[str, tuple[str, str, dict]] = {
    "first": ("text_classification", "ModernBertForSequenceClassification", {"classifier_pooling": "cls"}),
    "mean": ("text_classification", "ModernBertForSequenceClassification", {"classifier_pooling": "mean"}),
    "tokens": ("token_classification", "ModernBertForTokenClassification", {}),
    "answers": ("extractive_qa", "ModernBertForQuestionAnswering", {"num_labels": 2}),
    "last": ("text_classification", "LlamaForSequenceClassification", {}),
}


@pytest.mark.parametrize("name", FINETUNED)
def test_a_finetuned_model_there_and_back(run_script: Callable[..., str], tmp_path: Path, name: str) -> None:
    head, kind, own = FINETUNED[name]
    script, settings = ("llama", LLAMA) if kind.startswith("Llama") else ("modernbert", MODERNBERT)
    kind = getattr(transformers, kind)
    folder = save_random(kind(kind.config_class(**settings, **{"num_labels": 3, "pad_token_id": 0, **own})),
                         tmp_path / "theirs")
    assert open_hugging_face(folder).head == head
    options = ("--type", head, "--input_model_path")
    printed = run_script(f"convert_{script}_from_huggingface_to_uer.py", *options, folder, "--output_model_path",
                         tmp_path / "uer.bin")
    assert "checked: on " in printed
    printed = run_script(f"convert_{script}_from_uer_to_huggingface.py", *options, tmp_path / "uer.bin",
                         "--output_dir", tmp_path / "back")
    assert "checked: on " in printed
    first, second = read_hugging_face(folder), read_hugging_face(tmp_path / "back")
    assert first.weights.keys() == second.weights.keys() and second.config["architectures"] == [kind.__name__]
    assert all(torch.equal(tensor, second.weights[key]) for key, tensor in first.weights.items())
    assert all(second.config[key] == first.config[key] for key in {"pad_token_id", *own} - {"num_labels"})


def test_a_classifier_of_two_layers_is_not_llamas(run_script: Callable[..., str], tmp_path: Path) -> None:
    config = ModelConfig(emb_size=24, hidden_size=24, feedforward_size=31, heads_num=2, layers_num=1, mask="causal",
                         layernorm_positioning="pre", layernorm="rms", feed_forward="gated", embedding=("word",),
                         remove_transformer_bias=True, remove_embedding_layernorm=True, hidden_act="silu",
                         rotary_position_embedding=True, target=("lm",), members={"has_lmtarget_bias": False},
                         pooling="last")
    vocab = Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
    task = Classification(LabelSet(("x", "y")))
    save_finetuned(tmp_path / "m.bin", task.build(config, 6).state_dict(), task, config,
                   TextToRows(BertTokenizer(vocab), 9), {})
    arguments = ("convert_llama_from_uer_to_huggingface.py", "--type", "text_classification", "--input_model_path",
                 tmp_path / "m.bin", "--output_dir", tmp_path / "hf")
    with pytest.raises(UserError, match=r"output_layer_1\.weight.* are no part of LlamaForSequenceClassification"):
        run_script(*arguments)
    linear = replace(config, prediction_head="linear", pooling="first")
    save_finetuned(tmp_path / "m.bin", task.build(linear, 6).state_dict(), task, linear,
                   TextToRows(BertTokenizer(vocab), 9), {})
    with pytest.raises(UserError, match="pooling is first in the model's settings, but it is last in"):
        run_script(*arguments)
    assert not (tmp_path / "hf").exists()
