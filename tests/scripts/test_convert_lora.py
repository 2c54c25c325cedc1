"""Adapters (LoRA) by the scripts: merged models, and folders that peft opens."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.scripts.test_convert_finetuned import CONFIG, TOKENS
from tests.tools.configs import model_config
from uer.backbone import Backbone
from uer.checkpoint.files import load_into, load_weights, save_weights, trained_state
from uer.checkpoint.settings import read_settings, write_settings
from uer.config import LoraConfig
from uer.convert import ARCHITECTURES
from uer.convert.names import from_uer
from uer.convert.peft import to_peft
from uer.errors import UserError
from uer.finetuning.batches import Batch
from uer.finetuning.heads import Classifier
from uer.finetuning.labels import LabelSet
from uer.finetuning.saved_model import load_finetuned, load_settings, save_finetuned
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import Classification
from uer.layers.lora import is_adapter, merged
from uer.lora import adapt
from uer.model import build_model
from uer.tokenizers import BertTokenizer, Vocab

Run = Callable[..., str]
LORA = LoraConfig(True)
GPT2 = model_config(emb_size=16, hidden_size=16, feedforward_size=24, heads_num=2, layers_num=2, max_seq_length=20,
                    hidden_act="gelu_fast", embedding=["word", "pos"], mask="causal", layernorm_positioning="pre",
                    remove_embedding_layernorm=True, target=["lm"], tie_weights=True)


def adapted(model: Backbone, lora: LoraConfig) -> Backbone:
    """The model with random adapters; what else is trained is random too."""
    adapt(model, lora, lambda line: None)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, 0.1, 0.2)
    return model.eval()


@pytest.fixture
def classifier(tmp_path: Path) -> tuple[Classifier, Classification]:
    """A fine-tuned classifier with adapters at `model.bin`, whose base is `base.bin`; a layer norm is trained too."""
    torch.manual_seed(4)
    base = build_model(CONFIG, len(TOKENS))
    save_weights(base.state_dict(), tmp_path / "base.bin")
    model, task = Classifier(CONFIG, len(TOKENS), 3), Classification(LabelSet(("a", "b", "c")))
    load_into(model, base.state_dict(), "base")
    lora = LoraConfig(True, 3, 6.0, lora_target=("all-linear",), lora_train=("layer_norm_1",))
    adapted(model, lora)
    save_finetuned(tmp_path / "model.bin", trained_state(model), task, CONFIG,
                   TextToRows(BertTokenizer(Vocab(TOKENS)), 23),
                   {"lora": lora.values(), "pretrained_model_path": str(tmp_path / "base.bin")})
    return model, task


def batch(size: int, length: int = 11) -> Batch:
    torch.manual_seed(5)
    return Batch(torch.randint(5, size, (4, length)), torch.ones(4, length, dtype=torch.long))


def test_a_merged_classifier_is_a_model_as_any_other(run_script: Run, tmp_path: Path, classifier) -> None:
    model, task = classifier
    with pytest.raises(UserError, match=r"model.bin: holds adapters \(LoRA\), not a whole model; .*merge_lora.py"):
        run_script("convert_bert_text_classification_from_uer_to_huggingface.py", "--input_model_path",
                   tmp_path / "model.bin", "--output_dir", tmp_path / "hf")
    (tmp_path / "new").mkdir()
    of_another = "".join(f"{token}\n" for token in reversed(TOKENS))
    (tmp_path / "new/model.vocab.txt").write_text(of_another)
    said = run_script("merge_lora.py", "--input_model_path", tmp_path / "model.bin", "--output_model_path",
                      tmp_path / "new/whole.bin")
    assert "adapters of 12 layers" in said
    whole = Classifier(CONFIG, len(TOKENS), 3).eval()
    load_finetuned(whole, task, tmp_path / "new/whole.bin")
    rows = batch(len(TOKENS))
    torch.testing.assert_close(whole(rows), model(rows), rtol=0, atol=1e-5)
    assert not any(name.startswith("target.") or is_adapter(name) for name in load_weights(tmp_path / "new/whole.bin"))
    assert load_settings(tmp_path / "new/whole.bin").encoder.tokenizer.vocab.tokens == TOKENS


def test_a_merged_pretrained_model_keeps_its_settings(run_script: Run, tmp_path: Path) -> None:
    base = build_model(GPT2, 27)
    save_weights(base.state_dict(), tmp_path / "base.bin")
    save_weights(trained_state(adapted(base, LORA)), tmp_path / "lora.bin-5")
    flags = ["--input_model_path", tmp_path / "lora.bin-5", "--output_model_path", tmp_path / "whole.bin-5"]
    with pytest.raises(UserError, match="--pretrained_model_path is needed"):
        run_script("merge_lora.py", *flags)
    with pytest.raises(UserError, match="--lora_alpha is needed"):
        run_script("merge_lora.py", *flags, "--pretrained_model_path", tmp_path / "base.bin")
    write_settings(tmp_path / "lora.bin-5", 5, {"pretrained_model_path": str(tmp_path / "base.bin"),
                                                "lora": {"alpha": 16.0}, **GPT2.values()})
    run_script("merge_lora.py", *flags)
    whole = build_model(GPT2, 27).eval()
    whole.load_state_dict(load_weights(tmp_path / "whole.bin-5"))
    rows = batch(27)
    torch.testing.assert_close(whole.encode(rows.src, rows.seg), base.encode(rows.src, rows.seg), rtol=0, atol=1e-5)
    assert read_settings(tmp_path / "whole.bin-5")["step"] == 5
    with pytest.raises(UserError, match="holds no adapters"):
        run_script("merge_lora.py", "--input_model_path", tmp_path / "base.bin", "--output_model_path",
                   tmp_path / "x.bin")
    half = {name: tensor for name, tensor in load_weights(tmp_path / "lora.bin-5").items()
            if not name.endswith("linear_layers.2.lora_B")}
    save_weights(half, tmp_path / "half.bin-5")
    with pytest.raises(UserError, match=r"linear_layers.2.lora_A \[8, 16\] and lora_B \[0\] are not the two matrices"):
        run_script("merge_lora.py", "--input_model_path", tmp_path / "half.bin-5", *flags[2:],
                   "--pretrained_model_path", tmp_path / "base.bin", "--lora_alpha", "16")
    before = load_weights(tmp_path / "base.bin").items()
    save_weights({name: tensor for name, tensor in before if "transformer.1" not in name}, tmp_path / "other.bin")
    with pytest.raises(UserError, match=r"transformer.1.self_attn.linear_layers.0.weight is missing"):
        run_script("merge_lora.py", *flags, "--pretrained_model_path", tmp_path / "other.bin")


def test_adapters_of_layers_that_hugging_face_keeps_as_one() -> None:
    """The sum of weight and B A is that of the merged model, by the names of Hugging Face."""
    torch.manual_seed(2)
    base = build_model(GPT2, 27)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = adapted(base, LoraConfig(True, 2, lora_target=("linear_layers.0", "linear_layers.2", "linear_2")))
    found = to_peft(trained_state(model), before, ARCHITECTURES["gpt2"], "lm", 16.0, None)
    whole = from_uer(merged(model.state_dict(), 16.0), ARCHITECTURES["gpt2"].names, "lm", "m")
    plain = from_uer(before, ARCHITECTURES["gpt2"].names, "lm", "m").weights
    for layer, rank in (("transformer.h.1.attn.c_attn", 4), ("transformer.h.0.mlp.c_proj", 2)):
        low, high = (found.weights[f"base_model.model.{layer}.lora_{which}.weight"] for which in "AB")
        assert len(low) == high.shape[1] == rank
        alpha = found.config["alpha_pattern"].get(layer, found.config["lora_alpha"])
        assert found.config["rank_pattern"].get(layer, found.config["r"]) == rank
        changed = plain[f"{layer}.weight"] + alpha / rank * (high @ low).T  # GPT-2's are transposed
        torch.testing.assert_close(changed, whole.weights[f"{layer}.weight"], rtol=0, atol=1e-6)
    assert found.config["fan_in_fan_out"]
    with pytest.raises(UserError, match="no counterpart in Hugging Face's GPT-2"):
        to_peft({**trained_state(model), "head.weight": torch.ones(1)}, before, ARCHITECTURES["gpt2"], "lm", 16.0, None)


def test_peft_gives_our_logits(run_script: Run, tmp_path: Path, classifier) -> None:
    model, _ = classifier
    run_script("convert_lora_from_uer_to_huggingface.py", "--input_model_path", tmp_path / "model.bin", "--output_dir",
               tmp_path / "peft", "--base_model", "some/base")
    config = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS" and config["base_model_name_or_path"] == "some/base"
    stored = load_file(tmp_path / "peft/adapter_model.safetensors")
    name = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"
    assert torch.equal(stored[name], model.encoder.transformer[0].self_attn.linear_layers[0].lora_A)

    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    theirs = transformers.BertForSequenceClassification(transformers.BertConfig(
        vocab_size=len(TOKENS), hidden_size=48, intermediate_size=53, num_attention_heads=3, num_hidden_layers=2,
        max_position_embeddings=41, hidden_act="relu", num_labels=3, layer_norm_eps=1e-12))
    body = from_uer(load_weights(tmp_path / "base.bin"), ARCHITECTURES["bert"].names, "", "base").weights
    assert not theirs.load_state_dict(body, strict=False).unexpected_keys
    opened = peft.PeftModel.from_pretrained(theirs, tmp_path / "peft").eval()
    rows = batch(len(TOKENS))
    with torch.no_grad():
        found = opened(input_ids=rows.src, attention_mask=rows.seg).logits
        torch.testing.assert_close(found, model(rows), rtol=0, atol=2e-5)
        torch.testing.assert_close(opened.merge_and_unload()(input_ids=rows.src).logits, model(rows), rtol=0, atol=2e-5)


def test_peft_gives_our_language_models_hidden_states(run_script: Run, tmp_path: Path) -> None:
    """GPT-2, whose query, key and value peft adapts together."""
    torch.manual_seed(2)
    model = build_model(GPT2, 27)
    save_weights(model.state_dict(), tmp_path / "base.bin")
    plain = from_uer(model.state_dict(), ARCHITECTURES["gpt2"].names, "lm", "base").weights
    save_weights(trained_state(adapted(model, LORA)), tmp_path / "lora.bin")
    run_script("convert_lora_from_uer_to_huggingface.py", "--input_model_path", tmp_path / "lora.bin", "--output_dir",
               tmp_path / "peft", "--pretrained_model_path", tmp_path / "base.bin", "--lora_alpha", 16)
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=27, n_embd=16, n_inner=24, n_head=2, n_layer=2, n_positions=20, activation_function="gelu_new",
        layer_norm_epsilon=1e-12, bos_token_id=None, eos_token_id=None))
    assert not theirs.load_state_dict(plain, strict=False).unexpected_keys
    opened = peft.PeftModel.from_pretrained(theirs, tmp_path / "peft").eval()
    rows = batch(27)
    with torch.no_grad():
        found = opened(input_ids=rows.src).logits
        hidden = model.encode(rows.src, rows.seg)
        torch.testing.assert_close(found, model.target["lm"].logits(hidden.flatten(0, 1)).view_as(found), rtol=0,
                                   atol=2e-5)
